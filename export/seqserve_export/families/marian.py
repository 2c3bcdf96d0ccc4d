"""Hugging Face Marian directories (``MarianMTModel``): OPUS-MT and its relatives."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqserve import marian_text
from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import CONFIG_FILE, digests, read_json, read_weights, weights_file
from seqserve_export.families.generation import read_generation
from seqserve_export.families.weights import fill, freeze
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import Activation, ConfigError
from seqserve_export.model.positions import sinusoid_table
from seqserve_export.tokenizer_files import MarianFiles

CLASS = "MarianMTModel"
TOKENIZER_FILES = (marian_text.SOURCE_VOCABULARY, marian_text.SOURCE_PIECES, marian_text.TARGET_PIECES)
ACTIVATIONS: dict[str, Activation] = {
    "swish": "silu", "silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh",
}

# A suppressed token's logit. Large enough to absorb any real logit in float32 (its spacing there is 65536), so that
# every runtime computes the same value; finite, because -inf turns into NaN wherever it meets a factor of zero.
SUPPRESSED = -1e12

SHARED, HEAD, BIAS = "model.shared.weight", "lm_head.weight", "final_logits_bias"
SOURCE, TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")

# Old conversions carry switches that transformers no longer reads; any other value means another architecture.
FIXED = {"normalize_before": False, "add_final_layer_norm": False, "static_position_embeddings": True}

ATTENTION = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj"))
ENCODER_PARTS = {"attention": "self_attn"}
DECODER_PARTS = {"attention": "self_attn", "cross": "encoder_attn"}
NORMS = {"attention_norm": "self_attn_layer_norm", "cross_norm": "encoder_attn_layer_norm"}
FFN = (("ffn.inner", "fc1"), ("ffn.outer", "fc2"), ("ffn_norm.norm", "final_layer_norm"))


def recognises(directory: Path) -> bool:
    """A config.json with ``"model_type": "marian"``."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") == "marian"


def load(directory: Path) -> LoadedCheckpoint:
    """Read a Marian directory. Sources are the pieces of the text and the end token; decoding starts from pad."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ExportError(f"{directory}: no model here (no {CONFIG_FILE})")
    values = read_json(path)
    generation = read_generation(directory, values)
    try:
        config = read_config(values, generation.decoder_start_id, generation.eos_id, generation.pad_id)
    except KeyError as error:
        raise ExportError(f"{path}: missing key {error.args[0]!r}") from None
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from None
    file = weights_file(directory, pickled=True)
    tensors = read_weights(file)
    model = Transformer(config)
    names = tensor_names(config)
    _drop_copies(tensors, names, values, config, file)
    _prepare_bias(tensors, config, generation.suppressed)
    fill(model, tensors, names, file)
    tokenizer, notes = _tokenizer(directory, config)
    names_read = (*TOKENIZER_FILES, marian_text.TARGET_VOCABULARY, marian_text.SETTINGS)
    files = [path, file, directory / "generation_config.json", *(directory / name for name in names_read)]
    return LoadedCheckpoint(
        family="marian",
        model=freeze(model),
        source_prefix=(),
        source_suffix=(config.eos_id,),
        decoder_prompt=generation.prompt,
        forced_end=generation.forced_end,
        unk_id=tokenizer.unknown_id if tokenizer is not None else None,
        default_max_new_tokens=min(generation.max_new_tokens or 256, config.max_target_length),
        default_min_new_tokens=generation.min_new_tokens,
        provenance={
            "source_class": CLASS, "source_files": digests(files), "generation": generation.settings,
            "suppressed_tokens": sorted(generation.suppressed),
        },
        tokenizer=tokenizer,
        notes=generation.notes + notes,
    )


def read_config(values: dict[str, Any], decoder_start_id: int, eos_id: int, pad_id: int) -> TransformerConfig:
    """Canonical configuration from Marian's config.json.

    Raises:
        ExportError: for what the canonical model does not have, by its name in the file.
        KeyError: for a key that the file lacks.
    """
    if CLASS not in (values.get("architectures") or [CLASS]):
        raise ExportError(f"architecture {', '.join(values['architectures'])} is not supported; supported: {CLASS}")
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise ExportError(f"{CONFIG_FILE}: {name} {values[name]!r} is not supported; only {only!r} is")
    for name in ("attention_heads", "ffn_dim"):
        if values[f"encoder_{name}"] != values[f"decoder_{name}"]:
            raise ExportError(f"{CONFIG_FILE}: encoder_{name} and decoder_{name} differ, which is not supported")
    activation = values.get("activation_function", "gelu")
    if activation not in ACTIVATIONS:
        raise ExportError(f"{CONFIG_FILE}: activation_function {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    width, heads = int(values["d_model"]), int(values["encoder_attention_heads"])
    if heads < 1 or width % heads:
        raise ExportError(f"{CONFIG_FILE}: d_model {width} is not a multiple of encoder_attention_heads {heads}")
    shared, tied = values.get("share_encoder_decoder_embeddings", True), values.get("tie_word_embeddings", True)
    vocabulary = int(values["vocab_size"])
    target = vocabulary if shared else int(values.get("decoder_vocab_size") or vocabulary)
    length = int(values["max_position_embeddings"])
    return TransformerConfig(
        source_vocab_size=vocabulary, target_vocab_size=target,
        width=width, heads=heads, head_size=width // heads, ffn_width=int(values["encoder_ffn_dim"]),
        encoder_layers=int(values["encoder_layers"]), decoder_layers=int(values["decoder_layers"]),
        max_source_length=length, max_target_length=length,
        pad_id=pad_id, eos_id=eos_id, decoder_start_id=decoder_start_id,
        embedding_scale=math.sqrt(width) if values.get("scale_embedding", False) else 1.0,
        embedding_norm=bool(values.get("normalize_embedding", False)),
        sinusoid_order="concatenated", activation=ACTIVATIONS[activation],
        # Without tying, transformers keeps separate tables even where the configuration says they are shared.
        shared_embeddings=bool(shared and tied), tied_output=bool(tied), output_bias=True,
        dropout=0.0,
    )


def tensor_names(config: TransformerConfig) -> dict[str, str]:
    """Marian's name of every parameter of the canonical model, shared tensors once."""
    names = {"source_embedding.tokens.weight": SHARED if config.shared_embeddings else SOURCE, "output_bias": BIAS}
    if not config.shared_embeddings:
        names["target_embedding.tokens.weight"] = TARGET
    if not config.tied_output:
        names["output.weight"] = HEAD
    pairs = []
    for side, layers, attentions in (
        ("encoder", config.encoder_layers, ENCODER_PARTS), ("decoder", config.decoder_layers, DECODER_PARTS),
    ):
        if config.embedding_norm:
            embedding = "source_embedding" if side == "encoder" else "target_embedding"
            pairs.append((f"{embedding}.norm", f"model.{side}.layernorm_embedding"))
        for index in range(layers):
            ours, theirs = f"{side}.{index}", f"model.{side}.layers.{index}"
            for part, name in attentions.items():
                pairs += [(f"{ours}.{part}.{a}", f"{theirs}.{name}.{b}") for a, b in ATTENTION]
                pairs.append((f"{ours}.{part}_norm.norm", f"{theirs}.{NORMS[f'{part}_norm']}"))
            pairs += [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in FFN]
    for ours, theirs in pairs:
        names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names


def _drop_copies(
    tensors: dict[str, Tensor], names: dict[str, str], values: dict[str, Any], config: TransformerConfig, file: Path
) -> None:
    """Remove tensors that repeat others (tied weights, sinusoids), after checking that they do.

    Raises:
        ExportError: a copy differs from what it should repeat.
    """
    if config.shared_embeddings and SHARED not in tensors:
        # Writers that store tied weights once are free to keep any of their names.
        kept = next((name for name in (SOURCE, TARGET, HEAD) if name in tensors), None)
        if kept is not None:
            tensors[SHARED] = tensors[kept]
    embedding = SHARED if config.shared_embeddings else TARGET
    copies = dict.fromkeys((SOURCE, TARGET), SHARED) if config.shared_embeddings else {}
    if config.tied_output:
        copies[HEAD] = embedding
    for name, original in copies.items():
        copy = tensors.pop(name, None)
        if copy is not None and original in tensors and not torch.equal(copy, tensors[original]):
            raise ExportError(f"{file}: {name} differs from {original}, to which {CONFIG_FILE} ties it")
    if SHARED not in names.values() and values.get("share_encoder_decoder_embeddings", True):
        tensors.pop(SHARED, None)  # kept by transformers beside the untied tables, and read by nobody
    for name in POSITIONS:
        stored = tensors.pop(name, None)
        if stored is not None:
            table = sinusoid_table(stored.shape[0], config.width, config.sinusoid_order)
            if stored.shape != table.shape or not torch.allclose(stored.float(), table, atol=1e-4):
                raise ExportError(f"{file}: {name} is not the sinusoidal table of Marian")


def _prepare_bias(tensors: dict[str, Tensor], config: TransformerConfig, suppressed: frozenset[int]) -> None:
    """Give the output bias its canonical shape, and fold in the tokens that generation never chooses."""
    bias = tensors.get(BIAS)
    if bias is None:
        bias = torch.zeros(config.target_vocab_size)
    bias = bias.float().squeeze(0) if bias.dim() == 2 else bias.float()
    if bad := [token for token in sorted(suppressed) if not 0 <= token < config.target_vocab_size]:
        raise ExportError(f"generation_config.json: bad_words_ids {bad} are outside the vocabulary")
    bias = bias.clone()
    if bias.shape == (config.target_vocab_size,):  # else the shape check names it
        bias[sorted(suppressed)] = SUPPRESSED
    tensors[BIAS] = bias


def _tokenizer(directory: Path, config: TransformerConfig) -> tuple[MarianFiles | None, tuple[str, ...]]:
    """The tokenizer of a directory that has all its files, and a note on one that has only some."""
    missing = [name for name in TOKENIZER_FILES if not (directory / name).is_file()]
    if not missing:
        return MarianFiles.read(directory, config), ()
    if len(missing) == len(TOKENIZER_FILES):
        return None, ()
    return None, (f"without {', '.join(missing)} there is no tokenizer: the bundle takes and returns token ids",)
