"""State dictionaries around ``torch.nn.Transformer``; config.json names what surrounds it: embeddings and output."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint
from seqserve_export.families.files import CONFIG_FILE, config_file, digests, read_json, read_weights, weights_file
from seqserve_export.families.settings import (
    FLAG,
    IDS,
    MAX_POSITIONS,
    TEXT,
    TOKEN_ID,
    check_settings,
    integer,
    number,
    one_of,
)
from seqserve_export.families.vocabulary import Vocabulary, read_vocabulary
from seqserve_export.families.weights import REST, fill, format_notes, freeze
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError
from seqserve_export.word_files import WordFiles

PICKLE_FILE = "model.pt"
FORMAT = "torch.nn.Transformer"
FINAL_NORM = "encoder.norm.weight"

# Keys of config.json with their defaults; REQUIRED have none.
REQUIRED = ("source_embedding", "target_embedding", "output", "heads", "bos_id", "eos_id", "pad_id")
DEFAULTS: dict[str, Any] = {
    "format": FORMAT,
    "prefix": "",  # of nn.Transformer's own names
    "output_bias": None,
    "source_positions": None,  # the name of a stored table [length, width] or [length, 1, width]; None: sinusoidal
    "target_positions": None,
    "sinusoid_order": "interleaved",
    "max_length": 5000,  # of sinusoidal positions
    "scale_embedding": True,  # times the root of the width
    "norm_first": False,
    "activation": "relu",
    "layer_norm_eps": 1e-5,
    "source_prefix": [],
    "source_suffix": None,  # None: the end token
    "unk_id": None,
    "max_new_tokens": None,
    "source_vocab": None,  # names of files with the words in id order; None: the bundle takes and returns ids
    "target_vocab": None,
}
SETTINGS = {
    **dict.fromkeys(("source_embedding", "target_embedding", "output", "prefix"), TEXT),
    **dict.fromkeys(("bos_id", "eos_id", "pad_id"), TOKEN_ID),
    **dict.fromkeys(("output_bias", "source_positions", "target_positions"), TEXT.or_null()),
    **dict.fromkeys(("source_vocab", "target_vocab"), TEXT.or_null()),
    **dict.fromkeys(("scale_embedding", "norm_first"), FLAG),
    "format": one_of(FORMAT), "heads": integer(1), "max_length": integer(2, MAX_POSITIONS),
    "sinusoid_order": one_of("interleaved", "concatenated"), "activation": one_of("relu", "gelu"),
    "layer_norm_eps": number(0, 1), "source_prefix": IDS, "source_suffix": IDS.or_null(), "unk_id": TOKEN_ID.or_null(),
    "max_new_tokens": integer(1).or_null(),
}
NORMS = {
    "encoder": (("attention_norm", "norm1"), ("ffn_norm", "norm2")),
    "decoder": (("attention_norm", "norm1"), ("cross_norm", "norm2"), ("ffn_norm", "norm3")),
}
ATTENTIONS = {
    "encoder": (("attention", "self_attn"),),
    "decoder": (("attention", "self_attn"), ("cross", "multihead_attn")),
}
FFN = (("ffn.inner", "linear1"), ("ffn.outer", "linear2"))
PROJECTIONS = ("query", "key", "value")
TABLE = "{}_positions"  # a stored position table's name once it is taken out


def recognises(directory: Path) -> bool:
    """A config.json whose ``format`` says so."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_json(path).get("format") == FORMAT


def load(directory: Path) -> LoadedCheckpoint:
    """Read a model around ``torch.nn.Transformer``. Decoding starts from ``bos_id``."""
    path = config_file(directory)
    settings = read_settings(path)
    file = weights(directory)
    tensors = read_weights(file)
    tables = _take_positions(tensors, settings, file)
    try:
        config = infer_config(tensors, settings, tables, file)
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from None
    model = Transformer.without_values(config)
    fill(model, split_fused(tensors) | tables, tensor_names(config, settings), file, settings=REST)
    check_ids(path, settings, config)
    vocabularies = find_vocabularies(directory, settings)
    suffix = (config.eos_id,) if settings["source_suffix"] is None else tuple(settings["source_suffix"])
    return LoadedCheckpoint(
        family="torch",
        model=freeze(model),
        source_prefix=tuple(settings["source_prefix"]),
        source_suffix=suffix,
        unk_id=settings["unk_id"],
        default_max_new_tokens=min(
            DEFAULT_MAX_NEW_TOKENS if settings["max_new_tokens"] is None else settings["max_new_tokens"],
            config.max_target_length,
        ),
        tokenizer=_words(*vocabularies, settings, config) if vocabularies is not None else None,
        provenance={
            "source_class": FORMAT,
            "source_files": digests([path, file, *(vocabulary.file for vocabulary in vocabularies or ())]),
        },
        no_tokenizer=f"{CONFIG_FILE} names no vocabularies",
        notes=format_notes(tensors),
    )


def weights(directory: Path) -> Path:
    """The file with the weights."""
    return weights_file(directory, PICKLE_FILE)


def read_settings(path: Path) -> dict[str, Any]:
    """config.json, complete: every required key there, no unknown one, defaults filled in."""
    values = read_json(path)
    check_settings(path, values, SETTINGS)
    if missing := [name for name in REQUIRED if name not in values]:
        raise ExportError(f"{path}: missing keys {', '.join(missing)}")
    return {**DEFAULTS, **values}


def check_ids(path: Path, settings: dict[str, Any], config: TransformerConfig) -> None:
    """Every id is one of its own side, and a source has room for content.

    Raises:
        ExportError: naming the file, the key and the range.
    """
    suffix = [settings["eos_id"]] if settings["source_suffix"] is None else settings["source_suffix"]
    ids = {"source_prefix": settings["source_prefix"], "source_suffix": suffix}
    if settings["unk_id"] is not None:
        ids["unk_id"] = [settings["unk_id"]]
    for name, values in ids.items():
        if bad := [token_id for token_id in values if token_id >= config.source_vocab_size]:
            told = "" if settings[name] is not None else " (eos_id, as no other is given)"
            raise ExportError(f"{path}: {name}: id {bad[0]}{told} is outside 0..{config.source_vocab_size - 1}")
    if (around := len(ids["source_prefix"]) + len(suffix)) >= config.max_source_length:
        raise ExportError(
            f"{path}: source_prefix and source_suffix have {around} ids, which leaves none of the "
            f"{config.max_source_length} positions to the content"
        )


def find_vocabularies(directory: Path, settings: dict[str, Any]) -> tuple[Vocabulary, Vocabulary] | None:
    """Those of both sides, which may be one file; None where config.json names none."""
    names = [settings["source_vocab"], settings["target_vocab"]]
    if names == [None, None]:
        return None
    if None in names:
        raise ExportError(f"{CONFIG_FILE}: source_vocab and target_vocab go together; name both or neither")
    for key, name in zip(("source_vocab", "target_vocab"), names, strict=True):
        # Only the directory's own files: a checkpoint of strangers must not copy others into a bundle.
        if name != Path(name).name or not (directory / name).is_file():
            raise ExportError(f"{CONFIG_FILE}: {key} {name!r:.80} is not the name of a file in {directory}")
    source, target = (read_vocabulary(directory / name) for name in names)
    return source, target


def _words(
    source: Vocabulary, target: Vocabulary, settings: dict[str, Any], config: TransformerConfig
) -> WordFiles:
    """Words between whitespace; texts of answers leave the pad, start and end tokens out."""
    words = WordFiles(
        source.tokens, target.tokens, source_name=str(source.file), target_name=str(target.file)
    ).check(config.source_vocab_size, config.target_vocab_size)
    unknown = settings["unk_id"]
    return dataclasses.replace(
        words,
        unk_token=source.tokens[unknown] if unknown is not None else None,
        special_tokens=tuple(target.tokens[settings[key]] for key in ("pad_id", "bos_id", "eos_id")),
    )


def _take_positions(tensors: dict[str, Tensor], settings: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The stored position tables of both sides, taken out of ``tensors``; none where positions are sinusoidal."""
    stored = {side: settings[f"{side}_positions"] for side in ("source", "target")}
    if not any(stored.values()):
        return {}
    if not all(stored.values()):
        raise ExportError(f"{CONFIG_FILE}: source_positions and target_positions go together; name both or neither")
    tables = {TABLE.format(side): _matrix(tensors, name, file, squeeze=True) for side, name in stored.items()}
    for name in set(stored.values()):  # one table may serve both sides
        del tensors[name]
    return tables


def infer_config(
    tensors: dict[str, Tensor], settings: dict[str, Any], tables: dict[str, Tensor], file: Path
) -> TransformerConfig:
    """Sizes from shapes, the rest from config.json."""
    prefix = settings["prefix"]
    source, target = (_matrix(tensors, settings[f"{side}_embedding"], file) for side in ("source", "target"))
    width, heads = source.shape[1], settings["heads"]
    if width % heads:
        raise ExportError(f"{CONFIG_FILE}: heads {heads} is not a divisor of the width {width}")
    for name in ("bos_id", "eos_id", "pad_id"):
        if settings[name] >= target.shape[0]:
            raise ExportError(f"{CONFIG_FILE}: {name}: {settings[name]} is outside the vocabulary of {target.shape[0]}")
    bias = f"{prefix}encoder.layers.0.self_attn.in_proj_bias" in tensors
    lengths = [len(table) for table in tables.values()] or [settings["max_length"]] * 2
    return TransformerConfig(
        source_vocab_size=source.shape[0], target_vocab_size=target.shape[0],
        width=width, heads=heads, head_size=width // heads,
        ffn_width=_matrix(tensors, f"{prefix}encoder.layers.0.linear1.weight", file).shape[0],
        encoder_layers=_count(tensors, prefix, "encoder"), decoder_layers=_count(tensors, prefix, "decoder"),
        max_source_length=lengths[0], max_target_length=lengths[1],
        pad_id=settings["pad_id"], eos_id=settings["eos_id"], decoder_start_id=settings["bos_id"],
        norm_position="pre" if settings["norm_first"] else "post", norm_epsilon=float(settings["layer_norm_eps"]),
        final_norm=prefix + FINAL_NORM in tensors,
        embedding_scale=math.sqrt(width) if settings["scale_embedding"] else 1.0,
        positions="learned" if tables else "sinusoidal", sinusoid_order=settings["sinusoid_order"],
        attention_bias=bias, ffn_bias=f"{prefix}encoder.layers.0.linear1.bias" in tensors,
        activation=settings["activation"],
        shared_embeddings=settings["source_embedding"] == settings["target_embedding"],
        tied_output=settings["output"] == settings["target_embedding"],
        output_bias=settings["output_bias"] is not None,
    )


def split_fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``in_proj_weight`` and ``in_proj_bias``, which hold queries, keys and values, as three tensors each."""
    parts = dict(tensors)
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if match and tensor.ndim and tensor.shape[0] % 3 == 0:
            for part, piece in zip(PROJECTIONS, parts.pop(name).chunk(3), strict=True):
                parts[f"{match[1]}.{part}.{match[2]}"] = piece
    return parts


def tensor_names(config: TransformerConfig, settings: dict[str, Any]) -> dict[str, str]:
    """The name of every canonical parameter among the split tensors."""
    names = {"source_embedding.tokens.weight": settings["source_embedding"]}
    if not config.shared_embeddings:
        names["target_embedding.tokens.weight"] = settings["target_embedding"]
    if not config.tied_output:
        names["output.weight"] = settings["output"]
    if config.output_bias:
        names["output_bias"] = settings["output_bias"]
    if config.positions == "learned":
        names |= {f"{side}_embedding.positions": TABLE.format(side) for side in ("source", "target")}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        pairs = [(f"{side}_norm", f"{side}.norm", True)] if config.final_norm else []
        for index in range(layers):
            ours, theirs = f"{side}.{index}", f"{side}.layers.{index}"
            pairs += [(f"{ours}.{a}.norm", f"{theirs}.{b}", True) for a, b in NORMS[side]]
            pairs += [(f"{ours}.{a}", f"{theirs}.{b}", config.ffn_bias) for a, b in FFN]
            for a, b in ATTENTIONS[side]:
                ends = [*((part, part) for part in PROJECTIONS), ("output", "out_proj")]
                pairs += [(f"{ours}.{a}.{x}", f"{theirs}.{b}.{y}", config.attention_bias) for x, y in ends]
        for one, other, bias in pairs:
            names |= {f"{one}.{kind}": f"{settings['prefix']}{other}.{kind}" for kind in ("weight", "bias")[: 1 + bias]}
    return names


def _count(tensors: dict[str, Tensor], prefix: str, side: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}{side}\.layers\.(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})


def _matrix(tensors: dict[str, Tensor], name: str, file: Path, *, squeeze: bool = False) -> Tensor:
    if name not in tensors:
        raise ExportError(f"{file}: no tensor {name!r}; {CONFIG_FILE} names the embeddings, the output and the prefix")
    tensor = tensors[name]
    if squeeze and tensor.ndim == 3:
        tensor = tensor.squeeze(1 if tensor.shape[1] == 1 else 0)
    if tensor.ndim != 2:
        raise ExportError(f"{file}: {name} is {list(tensors[name].shape)}, not a matrix")
    return tensor
