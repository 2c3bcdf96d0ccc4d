"""Hugging Face T5 directories (``T5ForConditionalGeneration`` and its multilingual twin): T5, T5 v1.1, Flan-T5, mT5."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families.bart_layout import ACTIVATIONS
from seqserve_export.families.checkpoint import LoadedCheckpoint, SourceOptions
from seqserve_export.families.files import (
    CONFIG_FILE,
    config_file,
    digests,
    has_model_type,
    read_json,
    read_weights,
    weights_file,
)
from seqserve_export.families.generation import GENERATION_FILE, Generation, read_generation
from seqserve_export.families.hub_tokenizer import TOKENIZER_FILE, read_hub_tokenizer
from seqserve_export.families.settings import FLAG, NAMES, TEXT, check_known, integer, number
from seqserve_export.families.weights import equal, fill, format_notes, freeze, name_shared, suppress
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError
from seqserve_export.sentencepiece_files import HABITS, SentencePieceFiles
from seqserve_export.tokenizer_files import SETTINGS_FILE, HubFile

CLASSES = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "T5WithLMHeadModel")
PIECES = HABITS["t5"].file
KINDS = ("t5", "mt5", "umt5")  # the last is recognised to say why it is refused

# The model has no limit of its own. n_positions, where a configuration has it, is what it was trained on.
DEFAULT_LENGTH = 1024

SIZE = integer(1)
SETTINGS = {
    **dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size"), SIZE),
    "num_decoder_layers": SIZE.or_null(), "n_positions": integer(0).or_null(),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), SIZE),
    **dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs", "is_gated_act"), FLAG),
    **dict.fromkeys(("feed_forward_proj", "dense_act_fn"), TEXT), "layer_norm_epsilon": number(0, 1),
    "architectures": NAMES.or_null(),
}

SHARED, HEAD = "shared.weight", "lm_head.weight"
SUPPRESSION = "bad_words_ids"  # an output bias made of them; no file has such a tensor
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Stored by the first conversions, and read by nobody: cross-attention has no positions.
UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias"
ATTENTION = (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o"))
# Of a layer's parts: our name, the norm's, theirs.
ENCODER_PARTS = (("attention", "attention_norm", "layer.0", "SelfAttention"),)
DECODER_PARTS = (*ENCODER_PARTS, ("cross", "cross_norm", "layer.1", "EncDecAttention"))


def recognises(directory: Path) -> bool:
    """A config.json with one of T5's ``model_type`` values."""
    return has_model_type(directory, *KINDS)


@dataclass(frozen=True, kw_only=True)
class Read:
    """Settings and weights of a directory.

    Attributes:
        kind: ``model_type`` of config.json.
        files: Those that were read, for the record.
        notes: Of its generation settings and its weights.
    """

    kind: str
    generation: Generation
    model: Transformer
    files: list[Path]
    notes: tuple[str, ...]


def load(directory: Path, options: SourceOptions) -> LoadedCheckpoint:
    """Read a T5 directory. Sources are the pieces of the text and the end token; decoding starts from pad.

    Args:
        options: ``max_source_length`` and ``max_target_length`` in tokens; the model itself knows no limit.
    """
    read = read_directory(directory, options)
    config, generation = read.model.config, read.generation
    text = read_hub_tokenizer(directory, config)
    tokenizer: HubFile | SentencePieceFiles | None = None if text is None else text.file
    if tokenizer is None and (directory / PIECES).is_file():
        tokenizer = SentencePieceFiles.read(directory, "t5", config)
    fewest, most = generation.answer_limits(len(generation.prompt), config.max_target_length)
    notes = read.notes
    if generation.max_new_tokens is None:
        notes = (*notes, f"no max_length: answers end at {most} tokens, where transformers.generate stops at 20")
    return LoadedCheckpoint(
        family="t5",
        model=read.model,
        source_prefix=() if text is None else text.prefix,
        source_suffix=text.suffix if text is not None and text.prefix + text.suffix else (config.eos_id,),
        decoder_prompt=generation.prompt,
        forced_end=generation.forced_end,
        search=generation.search_behind(len(generation.prompt)),
        unk_id=None if tokenizer is None else tokenizer.unknown_id,
        default_max_new_tokens=most,
        default_min_new_tokens=fewest,
        tokenizer=tokenizer,
        no_tokenizer=f"without {TOKENIZER_FILE} or {PIECES}",
        provenance={
            "source_class": CLASSES[read.kind == "mt5"],
            "generation": generation.settings, "suppressed_tokens": sorted(generation.suppressed),
            "source_files": digests([
                *read.files, *(directory / name for name in (TOKENIZER_FILE, PIECES, SETTINGS_FILE))
            ]),
        },
        notes=notes,
    )


def read_directory(directory: Path, options: SourceOptions) -> Read:
    """Settings and weights.

    Raises:
        ExportError: one line naming the file and what in it cannot be served exactly.
    """
    path = config_file(directory)
    values = read_json(path)
    check_known(path, values, SETTINGS)
    check_class(values)
    # What T5Config takes for granted; the start token is the pad token by the model's definition.
    values = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": values.get("pad_token_id", 0), **values}
    generation = read_generation(directory, values)
    file = weights_file(directory)
    tensors = read_weights(file)
    _drop_copies(tensors, file)
    try:
        config = read_config(values, generation, options, tied=HEAD not in tensors)
    except KeyError as error:
        raise ExportError(f"{path}: missing key {error.args[0]!r}") from None
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from None
    generation.check_forced(config.target_vocab_size)
    names = tensor_names(config)
    if generation.suppressed:
        bias = torch.zeros(config.target_vocab_size)
        tensors[SUPPRESSION] = suppress(bias, generation.suppressed, generation.where)
        names["output_bias"] = SUPPRESSION
    model = Transformer.without_values(config)
    fill(model, tensors, names, file)
    return Read(
        kind=values.get("model_type", KINDS[0]), generation=generation, model=freeze(model),
        files=[path, file, directory / GENERATION_FILE], notes=generation.notes + format_notes(tensors),
    )


def check_class(values: dict[str, Any]) -> None:
    """Refuse a config.json of another class.

    Raises:
        ExportError: naming the class and those that are supported.
    """
    if values.get("model_type") == "umt5":
        raise ExportError(
            f"{CONFIG_FILE}: model_type 'umt5' is not supported: UMT5 has a table of relative positions in every layer"
        )
    if values.get("model_type", KINDS[0]) not in KINDS:
        raise ExportError(
            f"{CONFIG_FILE}: model_type {values['model_type']!r:.80} is not one of {', '.join(KINDS[:2])}, "
            "which the family t5 is for"
        )
    classes = values.get("architectures") or CLASSES
    if not {*classes} & {*CLASSES}:
        raise ExportError(
            f"{CONFIG_FILE}: architecture {', '.join(classes):.200} is not supported; supported: {', '.join(CLASSES)}"
        )


def read_config(
    values: dict[str, Any], generation: Generation, options: SourceOptions, *, tied: bool
) -> TransformerConfig:
    """Canonical configuration from T5's config.json.

    Args:
        tied: Whether the output is the embedding: the weights tell, since transformers 5 writes
            ``tie_word_embeddings`` true whatever the model is.

    Raises:
        ExportError: for what the canonical model does not have, by its name in the file.
        KeyError: for a key that the file lacks.
    """
    activation, gated = _feed_forward(values)
    width, vocabulary, layers = values["d_model"], values["vocab_size"], values["num_layers"]
    buckets, reach = _relative_positions(values)
    source, target = _lengths(values, options)
    if target < len(generation.prompt):
        raise ExportError(f"--max-target-length {target}: the decoder begins with {len(generation.prompt)} tokens")
    # mT5 never scales. T5 does where it was published with a tied output; transformers 5 has a key of its own for that.
    scaled = values.get("scale_decoder_outputs", values.get("tie_word_embeddings") is not False)
    return TransformerConfig(
        source_vocab_size=vocabulary, target_vocab_size=vocabulary,
        width=width, heads=values["num_heads"], head_size=values["d_kv"], ffn_width=values["d_ff"],
        encoder_layers=layers, decoder_layers=values.get("num_decoder_layers") or layers,
        max_source_length=source, max_target_length=target,
        pad_id=generation.pad_id, eos_id=generation.eos_id, decoder_start_id=generation.decoder_start_id,
        norm="rms", norm_position="pre", norm_epsilon=values.get("layer_norm_epsilon", 1e-6), final_norm=True,
        positions="relative", relative_buckets=buckets, relative_max_distance=reach,
        attention_bias=False, attention_scale=1.0, activation=ACTIVATIONS[activation], gated_ffn=gated, ffn_bias=False,
        shared_embeddings=True, tied_output=tied,
        output_bias=bool(generation.suppressed),
        output_scale=width**-0.5 if scaled and values.get("model_type") != "mt5" else 1.0,
        dropout=0.0,
    )


def _feed_forward(values: dict[str, Any]) -> tuple[str, bool]:
    """The activation's name and whether it is a gate, as transformers reads them from ``feed_forward_proj``."""
    default = "gated-gelu" if values.get("model_type") == "mt5" else "relu"
    projection = values.get("feed_forward_proj", default)
    gate, _, rest = projection.rpartition("-")
    # "gated-gelu" has always meant the approximation by tanh; a plain "gelu" is the exact one.
    derived = "gelu_new" if projection == "gated-gelu" else rest
    activation = values.get("dense_act_fn", derived)
    if gate not in ("", "gated") or activation not in ACTIVATIONS:
        raise ExportError(
            f"{CONFIG_FILE}: feed_forward_proj {projection!r} (dense_act_fn {activation!r}) is not supported; "
            f"{', '.join(ACTIVATIONS)}, plain or behind 'gated-', are"
        )
    return activation, values.get("is_gated_act", gate == "gated")


def _relative_positions(values: dict[str, Any]) -> tuple[int, int]:
    """Buckets, and the distance from which all share the last one."""
    buckets = values.get("relative_attention_num_buckets", 32)
    reach = values.get("relative_attention_max_distance", 128)
    # Half of the decoder's buckets are single distances; the others share the logarithm of what is left.
    if buckets < 4 or reach <= buckets // 2:
        raise ExportError(
            f"{CONFIG_FILE}: relative_attention_num_buckets {buckets} with relative_attention_max_distance {reach} "
            "is not supported; at least 4 buckets, and a distance above half of them, are"
        )
    return buckets, reach


def _lengths(values: dict[str, Any], options: SourceOptions) -> tuple[int, int]:
    """Limits of sources and targets, in tokens: what the caller says, else the configuration, else a default."""
    default = values.get("n_positions") or DEFAULT_LENGTH
    return options.max_source_length or default, options.max_target_length or default


def tensor_names(config: TransformerConfig) -> dict[str, str]:
    """T5's name of every parameter of the canonical model, shared tensors once."""
    pairs = [("source_embedding.tokens", "shared")]
    if not config.tied_output:
        pairs.append(("output", "lm_head"))
    inner = (("gate", "wi_0"), ("inner", "wi_1")) if config.gated_ffn else (("inner", "wi"),)
    for side, layers, parts in (
        ("encoder", config.encoder_layers, ENCODER_PARTS), ("decoder", config.decoder_layers, DECODER_PARTS),
    ):
        pairs += [(f"{side}_bias", f"{side}.{BIAS}"), (f"{side}_norm", f"{side}.final_layer_norm")]
        for index in range(layers):
            ours, theirs = f"{side}.{index}", f"{side}.block.{index}"
            for part, norm, place, name in parts:
                pairs += [(f"{ours}.{part}.{a}", f"{theirs}.{place}.{name}.{b}") for a, b in ATTENTION]
                pairs.append((f"{ours}.{norm}.norm", f"{theirs}.{place}.layer_norm"))
            last = f"{theirs}.layer.{len(parts)}"
            pairs += [(f"{ours}.ffn.{a}", f"{last}.DenseReluDense.{b}") for a, b in (*inner, ("outer", "wo"))]
            pairs.append((f"{ours}.ffn_norm.norm", f"{last}.layer_norm"))
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in pairs}


def _drop_copies(tensors: dict[str, Tensor], file: Path) -> None:
    """Remove tensors that repeat the embedding, after checking that they do; an output that differs stays.

    Raises:
        ExportError: one of the two stacks has an embedding of its own.
    """
    tensors.pop(UNREAD, None)
    name_shared(tensors, SHARED, (*COPIES, HEAD))
    for name in (*COPIES, HEAD):
        copy = tensors.get(name)
        if copy is None or SHARED not in tensors:
            continue
        if equal(copy, tensors[SHARED]):
            del tensors[name]
        elif name != HEAD:
            raise ExportError(f"{file}: {name} differs from {SHARED}, which both sides of T5 share")
