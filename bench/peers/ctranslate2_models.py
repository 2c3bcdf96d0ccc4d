"""Random CTranslate2 models for ``ctranslate2_parity``: made by its specifications, its converter, and old writers."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs import common_spec
from ctranslate2.specs.transformer_spec import TransformerSpec

from ctranslate2_files import Variables, serialize, tiny_variables, tokens, write_directory

WIDTH, HEADS, INNER, LENGTH = 24, 4, 40, 64
SOURCE, TARGET = 61, 64
Activation = common_spec.Activation


@dataclass(frozen=True)
class Variant:
    """One model: ``make`` writes its directory, with so many ``layers`` a side.

    Attributes:
        caller_ends: whoever calls sends the end token.
        vocabularies: tokens of source and target in id order.
    """

    name: str
    make: Callable[..., None]
    caller_ends: bool = False
    vocabularies: tuple[list[str], list[str]] = field(default_factory=lambda: (tokens(SOURCE, "s"), tokens(TARGET)))


def by_spec(
    directory: Path, *, quantization: str | None = None, shared: bool = False, positions: str = "implied",
    scale: bool | float = True, config: dict[str, Any] | None = None, biased: bool = True, seed: int = 0,
    layers: int = 2, **options: Any,
) -> None:
    """What a converter for OpenNMT makes: ``TransformerSpec`` filled with random weights."""
    spec, unnormed = TransformerSpec.from_config(layers, HEADS, **options), "no_final_norm" in options
    random = np.random.default_rng(seed)
    _fill(spec.encoder, random, biased)
    _fill(spec.decoder, random, biased)
    spec.encoder.embeddings[0].weight = _normal(random, 1.0, SOURCE, WIDTH)
    spec.decoder.embeddings.weight = _normal(random, 1.0, TARGET, WIDTH)
    # Without a final norm states are large; so are logits then, and the float32 errors in them.
    spec.decoder.projection.weight = _normal(random, (0.2 if unnormed else 1) * WIDTH**-0.5, TARGET, WIDTH)
    if shared:
        table = _normal(random, 0.15, TARGET, WIDTH)
        for holder in (spec.encoder.embeddings[0], spec.decoder.embeddings, spec.decoder.projection):
            holder.weight = table
    spec.decoder.projection.bias = _normal(random, 0.1, TARGET)
    spec.decoder.projection.bias[2] += 1.0  # so that some sentences end by themselves
    for side in (spec.encoder, spec.decoder):
        side.scale_embeddings = scale
        if positions == "stored":
            side.position_encodings.encodings = _normal(random, 1.0, LENGTH, WIDTH)
    for name, value in (config or {}).items():
        setattr(spec.config, name, value)
    target = tokens(TARGET)
    spec.register_source_vocabulary(target if shared else tokens(SOURCE, "s"))
    spec.register_target_vocabulary(target)
    spec.validate()
    spec.optimize(quantization=quantization)
    directory.mkdir(parents=True, exist_ok=True)
    spec.save(str(directory))


def _fill(spec: Any, random: np.random.Generator, biased: bool, scope: str = "") -> None:
    """Every weight of a layer and of those in it."""
    for name, value in list(vars(spec).items()):
        where = f"{scope}/{name}"
        if isinstance(value, list):
            for part in value:
                _fill(part, random, biased, where)
        elif isinstance(value, common_spec.LinearSpec):
            columns = INNER if where.endswith("ffn/linear_1") else WIDTH
            _fill_linear(value, random, biased, where, columns)
        elif isinstance(value, common_spec.LayerNormSpec):
            value.gamma = 1 + _normal(random, 0.2, WIDTH)
            if hasattr(value, "beta"):
                value.beta = _normal(random, 0.1, WIDTH)
        elif hasattr(value, "__dict__") and not isinstance(value, np.generic):
            _fill(value, random, biased, where)
    if hasattr(spec, "linear") and isinstance(spec.linear, list):
        sizes = {2: (3, 1), 3: (1, 2, 1)}[len(spec.linear)]
        for index, (linear, count) in enumerate(zip(spec.linear, sizes, strict=True)):
            _fill_linear(linear, random, biased, scope, WIDTH, rows=count * WIDTH)
            if index == 0:
                linear.weight[:WIDTH] *= 3  # sharp attention: else a random model repeats one token
        if hasattr(spec, "relative_attention_bias"):
            spec.relative_attention_bias = _normal(np.random.default_rng(7), 1.0, 32, HEADS)
            spec.relative_attention_max_distance = np.dtype("int32").type(128)


def _fill_linear(
    spec: Any, random: np.random.Generator, biased: bool, where: str, columns: int, rows: int | None = None
) -> None:
    rows = rows or (WIDTH if where.endswith("ffn/linear_1") else INNER)
    spec.weight = _normal(random, (0.4 if "ffn" in where else 1.0) * columns**-0.5, rows, columns)
    if biased:
        spec.bias = _normal(random, 0.1, rows)


def _normal(random: np.random.Generator, deviation: float, *shape: int) -> Any:
    return random.normal(0, deviation, shape).astype(np.float32)


def by_old_writer(
    directory: Path, *, version: int, revision: int, spec: str, heads: int, int16: bool = False, layers: int = 2
) -> None:
    """A file as older converters wrote it: attributes at the top or none, no aliases, scales left out."""
    variables = tiny_variables(source=SOURCE, target=TARGET, width=32, heads=heads, inner=INNER, layers=layers)
    names = ("num_heads", "pre_norm", "activation")
    if revision < 5:
        top = {name: variables[f"encoder/{name}"] for name in names} if revision >= 3 else {}
        kept = {name: value for name, value in variables.items() if not name.endswith(names)}
        variables = {name.replace("embeddings_0", "embeddings"): value for name, value in kept.items()} | top
    variables["decoder/projection/bias"][2] += 1.0
    if int16:
        variables |= {
            name: np.rint(value * 1000).astype(np.int16) for name, value in variables.items() if name.endswith("weight")
        }
    if revision == 1:
        variables = {_first_name(name): value for name, value in variables.items()}
    write_directory(directory, {})
    (directory / "config.json").unlink()
    (directory / "model.bin").write_bytes(serialize(variables, version=version, revision=revision, spec=spec))
    for name, words in (("source", tokens(SOURCE, "s")), ("target", tokens(TARGET))):
        # Without <unk>, which comes last then: CTranslate2 adds it there.
        lines = [word for word in words if word != "<unk>"]
        (directory / f"{name}_vocabulary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _first_name(name: str) -> str:
    """A name of the first revision, after OpenNMT-tf."""
    own, cross = ("multi_head", "") if name.startswith("encoder") else ("masked_multi_head", "multi_head")
    for new, old in (
        ("self_attention", own), ("/attention/", f"/{cross}/"), ("layer_norm", "LayerNorm"),
        ("embeddings/weight", "w_embs"), ("projection", "dense"), ("linear_0", "conv1d"), ("linear_", "conv1d_"),
        ("weight", "kernel"),
    ):
        name = name.replace(new, old)
    return f"transformer/{name}:0"


class Words:
    """What CTranslate2's converter asks a tokenizer for."""

    bos_token, eos_token, unk_token, pad_token = "<s>", "</s>", "<unk>", "<pad>"
    unk_token_id = 0
    special_tokens_map: ClassVar[dict[str, Any]] = {}
    num_madeup_words = 0

    def __init__(self) -> None:
        self.words = [*tokens(TARGET - 1), "<pad>"]

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return {word: index for index, word in enumerate(self.words)}

    def convert_ids_to_tokens(self, index: int) -> str:
        """The token of an id."""
        return self.words[index]


class Converter(TransformersConverter):  # type: ignore[misc]
    """CTranslate2's own, without a tokenizer on disk."""

    def load_tokenizer(self, *_: Any, **__: Any) -> Words:
        """Words."""
        return Words()


def by_converter(
    directory: Path, *, kind: str, quantization: str | None = None, seed: int = 0, layers: int = 2, **options: Any
) -> None:
    """A random transformers model through CTranslate2's converter."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "d_model": WIDTH, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER,
        "max_position_embeddings": LENGTH, "scale_embedding": True, "forced_eos_token_id": None,
    }
    if kind == "T5":
        sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": INNER, "num_layers": layers, "num_heads": HEADS}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=TARGET, pad_token_id=TARGET - 1, eos_token_id=2, bos_token_id=1,
        **{"decoder_start_token_id": 2, **sizes, **options},
    )
    name = {"Marian": "MarianMTModel"}.get(kind, f"{kind}ForConditionalGeneration")
    model = getattr(transformers, name)(config).eval()
    for name, tensor in model.state_dict().items():
        if "embed_positions" in name and kind in ("Marian", "M2M100", "Pegasus"):
            continue  # sinusoids
        # Sharp attention, and little of the last token in the next: otherwise a random model repeats one for ever.
        parts = {"q_proj": 0.8, ".fc": 0.06, ".wi": 0.06, "shared": 0.1, "embed_tokens": 0.1, "lm_head": 0.2,
                 "attention_bias": 1.0, "norm": 0.2, "bias": 0.2}
        torch.nn.init.normal_(tensor, std=next((std for part, std in parts.items() if part in name), 0.3))
        if "norm.weight" in name:
            tensor += 1.0
    with torch.no_grad():
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias[0, 2] = 0.6
        else:
            model.get_output_embeddings().weight[2] *= 2
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        Converter(saved).convert(str(directory), quantization=quantization, force=True)


CONVERTED: dict[str, dict[str, Any]] = {
    "Marian": {"kind": "Marian", "activation_function": "swish", "decoder_start_token_id": TARGET - 1},
    "Marian, int8": {"kind": "Marian", "decoder_start_token_id": TARGET - 1, "quantization": "int8", "seed": 1},
    "BART": {"kind": "Bart", "activation_function": "gelu", "normalize_before": False},
    "mBART, int16": {"kind": "MBart", "tokenizer_class": "MBart50Tokenizer", "normalize_before": True,
                     "quantization": "int16"},
    "M2M100": {"kind": "M2M100", "activation_function": "relu"},
    "Pegasus": {"kind": "Pegasus", "normalize_before": True, "normalize_embedding": False,
                "decoder_start_token_id": TARGET - 1},
    "T5, tied": {"kind": "T5", "decoder_start_token_id": TARGET - 1},
    "T5, gated, untied, int8": {"kind": "T5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
                                "quantization": "int8", "decoder_start_token_id": TARGET - 1},
}


def variants() -> list[Variant]:
    """Every model that is compared."""
    spec, old, hub = (partial(partial, make) for make in (by_spec, by_old_writer, by_converter))
    words = (Words().words, Words().words)
    both = (tokens(TARGET), tokens(TARGET))
    appended = ([*tokens(SOURCE, "s")[1:], "<unk>"], [*tokens(TARGET)[1:], "<unk>"])
    ends = {"add_source_eos": True}
    made = [
        Variant("pre-norm, relu", spec()),
        Variant("pre-norm, relu, int8", spec(quantization="int8", seed=1)),
        Variant("pre-norm, relu, int16", spec(quantization="int16", seed=2)),
        Variant("shared, gelu, float16", spec(shared=True, activation=Activation.GELU, quantization="float16"), False,
                both),
        Variant("shared, gelu, int8", spec(shared=True, activation=Activation.GELU, quantization="int8"), False, both),
        Variant("post-norm, swish", spec(pre_norm=False, activation=Activation.SWISH, config=ends)),
        Variant("post-norm, embedding norm, bos", spec(
            pre_norm=False, layernorm_embedding=True, activation=Activation.GELUTanh, scale=False,
            config={**ends, "add_source_bos": True, "layer_norm_epsilon": 1e-3})),
        Variant("stored positions, int8_float16", spec(positions="stored", quantization="int8_float16", scale=3.5)),
        Variant("stored positions, bfloat16", spec(positions="stored", quantization="bfloat16")),
        Variant("no final norm, no biases", spec(no_final_norm=True, biased=False)),
        Variant("gated, RMS, relative", spec(
            ffn_glu=True, rms_norm=True, relative_attention_bias=True, activation=Activation.GELUTanh, biased=False,
            scale=False)),
        *(Variant(f"version {version}, revision {revision}, {name or 'no name'}", old(
            version=version, revision=revision, spec=name, heads=heads, int16=int16), False, appended)
          for version, revision, name, heads, int16 in (
              (2, 1, "", 8, False), (2, 2, "TransformerBase", 8, False), (2, 2, "TransformerBig", 16, True),
              (3, 3, "TransformerSpec", 4, False), (4, 4, "TransformerSpec", 4, True),
              (5, 5, "TransformerSpec", 4, False))),
    ]
    return made + [Variant(name, hub(**options), True, words) for name, options in CONVERTED.items()]


LIBRARY = f"ctranslate2 {ctranslate2.__version__}"
__all__ = ["LIBRARY", "Variables", "Variant", "variants"]
