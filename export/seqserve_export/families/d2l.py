"""State dictionaries of the Transformer in "Dive into Deep Learning", with the vocabularies it was trained on."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from seqserve.word_text import SPACES
from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint, SourceOptions
from seqserve_export.families.files import CONFIG_FILE, digests, read_json, read_weights, weights_file
from seqserve_export.families.settings import FLAG, MAX_POSITIONS, check_settings, integer, number
from seqserve_export.families.vocabulary import Vocabulary, read_vocabulary
from seqserve_export.families.weights import REST, fill, format_notes, freeze, matrix
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError
from seqserve_export.word_files import WordFiles

BOOK = "the book's Transformer"
PICKLE_FILE = "model.pt"
VOCABULARIES = ("source_vocab", "target_vocab")
PAD, BEGIN, END, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SOURCE_EMBEDDING, TARGET_EMBEDDING = "encoder.embedding.weight", "decoder.embedding.weight"
RECURRENT = "decoder.attention.W_k.weight"
MAX_LENGTH = 1000  # the book's PositionalEncoding has this many rows

# Of config.json, which is optional: what shapes do not tell, and what they must agree with.
SIZE = integer(1)
SETTINGS = {
    "num_hiddens": SIZE, "ffn_num_hiddens": SIZE, "num_heads": SIZE, "num_blks": SIZE, "num_layers": SIZE,
    "use_bias": FLAG, "bias": FLAG, "dropout": number(0, 1), "max_len": integer(2, MAX_POSITIONS), "num_steps": SIZE,
}
ATTENTION = (("query", "W_q"), ("key", "W_k"), ("value", "W_v"), ("output", "W_o"))
FFN = (("ffn.inner", "ffn.dense1"), ("ffn.outer", "ffn.dense2"))
ENCODER_ATTENTIONS = (("attention", "attention"),)
DECODER_ATTENTIONS = (("attention", "attention1"), ("cross", "attention2"))
ENCODER_NORMS = (("attention_norm", "addnorm1"), ("ffn_norm", "addnorm2"))
DECODER_NORMS = (("attention_norm", "addnorm1"), ("cross_norm", "addnorm2"), ("ffn_norm", "addnorm3"))
_BLOCK, _BLOCK_NAME = re.compile(r"^(encoder|decoder)\.blks\.(?:block)?(\d+)\."), r"\1.blks.block\2."


def recognises(directory: Path) -> bool:
    """Two vocabularies beside the weights, and no config.json that says what format they are of."""
    path = directory / CONFIG_FILE
    if path.is_file() and "format" in read_json(path):
        return False
    return all(_vocabulary_file(directory, name) is not None for name in VOCABULARIES)


def load(directory: Path, options: SourceOptions) -> LoadedCheckpoint:
    """Read the book's model. Sources are words and the end token; decoding starts from ``<bos>``."""
    source, target = (find_vocabulary(directory, name) for name in VOCABULARIES)
    path = directory / CONFIG_FILE
    settings = read_settings(path) if path.is_file() else {}
    file = weights(directory)
    tensors = name_blocks(read_weights(file), file)
    if RECURRENT in tensors:
        raise ExportError(f"{file}: {RECURRENT} is of the book's recurrent model: export it with --family bahdanau")
    try:
        config = infer_config(tensors, settings, options.heads, file, (source, target))
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{directory}: {error}") from None
    model = Transformer.without_values(config)
    fill(model, tensors, tensor_names(config), file, settings=REST)
    notes = format_notes(tensors)
    if options.positions == "book":
        _repeat_first_position(model)
        first = "every generated token gets position 0, as in the book's predict, not the position it was trained on"
        notes = (*notes, first)
    return LoadedCheckpoint(
        family="d2l",
        model=freeze(model),
        source_prefix=(),
        source_suffix=(source.id_of(END),),
        unk_id=source.tokens.index(UNKNOWN) if UNKNOWN in source.tokens else None,
        tokenizer=words_of(source, target),
        default_max_new_tokens=min(settings.get("num_steps", DEFAULT_MAX_NEW_TOKENS), config.max_target_length),
        provenance={
            "source_class": "d2l.Transformer", "positions": options.positions or "true",
            "source_files": digests([path, file, source.file, target.file]),
        },
        notes=notes,
    )


def weights(directory: Path) -> Path:
    """The file with the weights."""
    return weights_file(directory, PICKLE_FILE)


def words_of(source: Vocabulary, target: Vocabulary) -> WordFiles:
    """The book's tokenizer: words between spaces. Its answers show ``<unk>``, and nothing of the other special ones."""
    words = WordFiles(
        source.tokens, target.tokens, UNKNOWN if UNKNOWN in source.tokens else None, (PAD, BEGIN, END), SPACES,
        str(source.file), str(target.file),
    )
    return words.check(len(source.tokens), len(target.tokens))


def find_vocabulary(directory: Path, name: str) -> Vocabulary:
    """The one of that name, as JSON or as text."""
    file = _vocabulary_file(directory, name)
    if file is None:
        raise ExportError(f"{directory}: no {name}.json here (a list of tokens in id order), nor {name}.txt")
    return read_vocabulary(file)


def _vocabulary_file(directory: Path, name: str) -> Path | None:
    files = (directory / f"{name}{suffix}" for suffix in (".json", ".txt"))
    return next((file for file in files if file.is_file()), None)


def read_settings(path: Path) -> dict[str, Any]:
    """The book's hyper-parameters by the book's names."""
    settings = read_json(path)
    check_settings(path, settings, SETTINGS)
    return settings


def name_blocks(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Blocks as ``block0``, the book's own name for them; some save ``0``.

    Raises:
        ExportError: both names are there, of which one would be lost.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _BLOCK.sub(_BLOCK_NAME, name)
        if ours in named:
            raise ExportError(f"{file}: tensor {ours} is there twice, under two names for one block")
        named[ours] = tensor
    return named


def infer_config(
    tensors: dict[str, Tensor], settings: dict[str, Any], heads: int | None, file: Path,
    vocabularies: tuple[Vocabulary, Vocabulary],
) -> TransformerConfig:
    """Sizes from shapes, checked against the settings; the head count from ``heads`` or the settings.

    Raises:
        ExportError: no head count, or settings and vocabularies that disagree with the shapes.
    """
    tables = (matrix(tensors, SOURCE_EMBEDDING, file, BOOK), matrix(tensors, TARGET_EMBEDDING, file, BOOK))
    for vocabulary, table in zip(vocabularies, tables, strict=True):
        if len(vocabulary.tokens) != table.shape[0]:
            raise ExportError(
                f"{vocabulary.file}: {len(vocabulary.tokens)} tokens, but the embedding has {table.shape[0]} rows"
            )
    width = tables[0].shape[1]
    layers = {side: _count_blocks(tensors, side) for side in ("encoder", "decoder")}
    sizes = {
        "num_hiddens": width,
        "ffn_num_hiddens": matrix(tensors, "encoder.blks.block0.ffn.dense1.weight", file, BOOK).shape[0],
        "num_blks": layers["encoder"], "num_layers": layers["encoder"],
        "use_bias": "encoder.blks.block0.attention.W_q.bias" in tensors,
        "bias": "encoder.blks.block0.attention.W_q.bias" in tensors,
    }
    for name, size in sizes.items():
        if name in settings and settings[name] != size:
            raise ExportError(f"{CONFIG_FILE}: {name} is {settings[name]}, but {file.name} has {size}")
    heads = _heads(heads, settings, width)
    length = settings.get("max_len", MAX_LENGTH)
    target = vocabularies[1]
    return TransformerConfig(
        source_vocab_size=tables[0].shape[0], target_vocab_size=tables[1].shape[0],
        width=width, heads=heads, head_size=width // heads, ffn_width=sizes["ffn_num_hiddens"],
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        max_source_length=length, max_target_length=length,
        pad_id=target.id_of(PAD), eos_id=target.id_of(END), decoder_start_id=target.id_of(BEGIN),
        embedding_scale=math.sqrt(width), sinusoid_order="interleaved", attention_bias=bool(sizes["use_bias"]),
        output_bias=True,
    )


def _heads(given: int | None, settings: dict[str, Any], width: int) -> int:
    """No shape tells the head count: the projections of all heads are one matrix."""
    stated = settings.get("num_heads")
    if given is not None and stated is not None and given != stated:
        raise ExportError(f"--heads {given}: {CONFIG_FILE} says num_heads {stated}")
    heads: int | None = given if given is not None else stated
    if heads is None:
        raise ExportError(
            f"the head count cannot be read from the weights: give --heads N, or num_heads in {CONFIG_FILE}"
        )
    if heads < 1 or width % heads:
        name = f"--heads {heads}" if given is not None else f"{CONFIG_FILE}: num_heads {heads}"
        raise ExportError(f"{name}: not a divisor of the width {width}")
    return heads


def _count_blocks(tensors: Iterable[str], side: str) -> int:
    found = {int(match[2]) for name in tensors if (match := _BLOCK.match(name)) and match[1] == side}
    return len(found)


def tensor_names(config: TransformerConfig) -> dict[str, str]:
    """The book's name of every parameter of the canonical model."""
    names = {
        "source_embedding.tokens.weight": SOURCE_EMBEDDING, "target_embedding.tokens.weight": TARGET_EMBEDDING,
        "output.weight": "decoder.dense.weight", "output_bias": "decoder.dense.bias",
    }
    for side, layers, attentions, norms in (
        ("encoder", config.encoder_layers, ENCODER_ATTENTIONS, ENCODER_NORMS),
        ("decoder", config.decoder_layers, DECODER_ATTENTIONS, DECODER_NORMS),
    ):
        for index in range(layers):
            ours, theirs = f"{side}.{index}", f"{side}.blks.block{index}"
            for part, name in attentions:
                for a, b in ATTENTION:
                    names[f"{ours}.{part}.{a}.weight"] = f"{theirs}.{name}.{b}.weight"
                    if config.attention_bias:
                        names[f"{ours}.{part}.{a}.bias"] = f"{theirs}.{name}.{b}.bias"
            pairs = [*((f"{a}.norm", f"{b}.ln") for a, b in norms), *FFN]
            names |= {f"{ours}.{a}.{kind}": f"{theirs}.{b}.{kind}" for a, b in pairs for kind in ("weight", "bias")}
    return names


def _repeat_first_position(model: Transformer) -> None:
    """What the book's ``predict`` computes: it feeds one token at a time and so always adds the first row."""
    table = model.target_embedding.positions
    if table is None:
        raise AssertionError("the book's model has positions")
    table.copy_(table[:1].expand_as(table).clone())
