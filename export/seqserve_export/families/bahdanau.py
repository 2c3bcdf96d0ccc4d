"""Recurrent models with additive attention: those of "Dive into Deep Learning", and this project's own.

The book's is ``Seq2Seq(Seq2SeqEncoder, Seq2SeqAttentionDecoder)`` of its PyTorch edition, section "The Bahdanau
Attention Mechanism". Its editions differ in one name: the encoder's units are ``encoder.rnn.rnn`` since the book
has a class of its own around them, and were ``encoder.rnn`` before.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families import native, recurrent
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint, SourceOptions
from seqserve_export.families.d2l import (
    BEGIN,
    END,
    PAD,
    PICKLE_FILE,
    SOURCE_EMBEDDING,
    TARGET_EMBEDDING,
    UNKNOWN,
    VOCABULARIES,
    find_vocabulary,
    words_of,
)
from seqserve_export.families.files import CONFIG_FILE, digests, read_json, read_weights, weights_file
from seqserve_export.families.settings import check_settings, integer, number, one_of
from seqserve_export.families.vocabulary import Vocabulary
from seqserve_export.families.weights import REST, fill, format_notes, freeze, matrix
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq
from seqserve_export.model.config import ConfigError

NAME = "bahdanau"
FORMAT = "Seq2SeqAttentionDecoder"
BOOK = f"the book's {FORMAT} and its encoder"
MAX_LENGTH = 1000  # as of the book's other models; this one has no limit of its own
# Of config.json, which is optional: what shapes must agree with, and how many tokens the book's batches had.
SIZE = integer(1)
SETTINGS = {
    "format": one_of(FORMAT), "embed_size": SIZE, "num_hiddens": SIZE, "num_layers": SIZE, "dropout": number(0, 1),
    "num_steps": SIZE,
}
GATES = 3
ATTENTION = {"query": "W_q", "key": "W_k", "score": "w_v"}
_UNITS = re.compile(r"^(encoder|decoder)\.rnn\.rnn\.")
_LAYER = re.compile(r"^(encoder|decoder)\.rnn\.(?:weight|bias)_[ih]h_l(\d{1,9})$")
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def recognises(directory: Path) -> bool:
    """A config.json that says the wiring, or names the book's class. Without one, ``d2l`` is as good a guess."""
    path = directory / CONFIG_FILE
    return path.is_file() and (recurrent.wiring(directory) == NAME or read_json(path).get("format") == FORMAT)


def load(directory: Path, options: SourceOptions) -> LoadedCheckpoint:
    """Read a checkpoint of either kind."""
    if recurrent.wiring(directory) is not None:
        return recurrent.load(directory, NAME, options)
    return load_book(directory, options)


def weights(directory: Path) -> Path:
    """The file with the weights."""
    return weights_file(directory, PICKLE_FILE) if recurrent.wiring(directory) is None else native.weights(directory)


def load_book(directory: Path, options: SourceOptions) -> LoadedCheckpoint:
    """Read the book's model. Sources are words and the end token; decoding starts from ``<bos>``."""
    source, target = (find_vocabulary(directory, name) for name in VOCABULARIES)
    path = directory / CONFIG_FILE
    settings = read_json(path) if path.is_file() else {}
    check_settings(path, settings, SETTINGS)
    file = weights(directory)
    tensors = name_units(read_weights(file), file)
    try:
        config = infer_config(tensors, settings, options, file, (source, target))
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{directory}: {error}") from None
    model = RecurrentSeq2Seq.without_values(config)
    fill(model, tensors, tensor_names(config), file, settings=REST)
    return LoadedCheckpoint(
        family=NAME,
        model=freeze(model),
        source_prefix=(),
        source_suffix=(source.id_of(END),),
        unk_id=source.tokens.index(UNKNOWN) if UNKNOWN in source.tokens else None,
        tokenizer=words_of(source, target),
        default_max_new_tokens=min(settings.get("num_steps", DEFAULT_MAX_NEW_TOKENS), config.max_target_length),
        provenance={
            "source_class": f"d2l.{FORMAT}", "padded_source_length": config.padded_source_length,
            "source_files": digests([path, file, source.file, target.file]),
        },
        notes=(*format_notes(tensors), _padding_note(config.padded_source_length, settings)),
    )


def _padding_note(padded: int, settings: dict[str, Any]) -> str:
    """How sources are read, as the book's way depends on what is not part of its model."""
    if padded:
        return f"sources of fewer than {padded} tokens are read on over padding, as in the book's batches"
    steps = settings.get("num_steps", "N")
    return (
        "the encoder reads the tokens of a source alone; the book's reads on over padding to num_steps tokens and "
        f"decodes from the state behind it: --pad-sources {steps} does so"
    )


def name_units(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Recurrent units as ``encoder.rnn``, whichever edition of the book wrote them.

    Raises:
        ExportError: both names are there, of which one would be lost.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _UNITS.sub(r"\1.rnn.", name)
        if ours in named:
            raise ExportError(f"{file}: tensor {ours} is there twice, under two names")
        named[ours] = tensor
    return named


def infer_config(
    tensors: dict[str, Tensor], settings: dict[str, Any], options: SourceOptions, file: Path,
    vocabularies: tuple[Vocabulary, Vocabulary],
) -> RecurrentConfig:
    """Sizes from shapes, checked against the settings; lengths and padding from the options.

    Raises:
        ExportError: settings, vocabularies or options that disagree with the shapes or with one another.
    """
    tables = (matrix(tensors, SOURCE_EMBEDDING, file, BOOK), matrix(tensors, TARGET_EMBEDDING, file, BOOK))
    for vocabulary, table in zip(vocabularies, tables, strict=True):
        if len(vocabulary.tokens) != table.shape[0]:
            raise ExportError(
                f"{vocabulary.file}: {len(vocabulary.tokens)} tokens, but the embedding has {table.shape[0]} rows"
            )
    layers = {side: _count_layers(tensors, side) for side in ("encoder", "decoder")}
    sizes = {
        "embed_size": tables[0].shape[1], "num_hiddens": _hidden_width(tensors, file), "num_layers": layers["encoder"],
    }
    for name, size in sizes.items():
        if name in settings and settings[name] != size:
            raise ExportError(f"{CONFIG_FILE}: {name} is {settings[name]}, but {file.name} has {size}")
    source, target = vocabularies
    longest, padded = options.max_source_length or MAX_LENGTH, options.pad_sources or 0
    if padded > longest:
        raise ExportError(f"--pad-sources {padded}: sources may have {longest} tokens (--max-source-length)")
    return RecurrentConfig(
        source_vocab_size=tables[0].shape[0], target_vocab_size=tables[1].shape[0],
        embedding_width=sizes["embed_size"], hidden_width=sizes["num_hiddens"],
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        max_source_length=longest, max_target_length=options.max_target_length or MAX_LENGTH,
        pad_id=target.id_of(PAD), eos_id=target.id_of(END), decoder_start_id=target.id_of(BEGIN),
        padded_source_length=padded, source_pad_id=source.id_of(PAD) if padded else 0,
        wiring="bahdanau", score="additive",
        attention_width=matrix(tensors, "decoder.attention.W_q.weight", file, BOOK).shape[0], output_bias=True,
    )


def _hidden_width(tensors: dict[str, Tensor], file: Path) -> int:
    """The encoder's, once it is seen to be one of gated recurrent units."""
    name = "encoder.rnn.weight_hh_l0"
    rows, columns = matrix(tensors, name, file, BOOK).shape
    if rows != GATES * columns:
        raise ExportError(
            f"{file}: {name} is [{rows}, {columns}], not {GATES} square gates: not gated recurrent units (nn.GRU)"
        )
    return columns


def _count_layers(tensors: dict[str, Tensor], side: str) -> int:
    """By the highest number, so that a tensor that is missing is missed and does not hide its layer."""
    found = (match for name in tensors if (match := _LAYER.match(name)) and match[1] == side)
    return 1 + max((int(match[2]) for match in found), default=-1)


def tensor_names(config: RecurrentConfig) -> dict[str, str]:
    """The book's name of every parameter of the canonical model."""
    names = {
        "source_embedding.tokens.weight": SOURCE_EMBEDDING, "target_embedding.tokens.weight": TARGET_EMBEDDING,
        "output.weight": "decoder.dense.weight", "output_bias": "decoder.dense.bias",
    }
    names |= {f"attention.{ours}.weight": f"decoder.attention.{theirs}.weight" for ours, theirs in ATTENTION.items()}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        parts = [f"{part}_l{layer}" for layer in range(layers) for part in _PARTS]
        names |= {f"{side}.{part}": f"{side}.rnn.{part}" for part in parts}
    return names
