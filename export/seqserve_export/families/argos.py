"""Argos Translate packages: a CTranslate2 model with its SentencePiece model and metadata, zipped or unpacked."""

import dataclasses
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from seqserve_export.errors import ExportError
from seqserve_export.families import ctranslate2
from seqserve_export.families.archive import unpack_zip
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import digests, read_json, refuse_lfs_pointer
from seqserve_export.piece_files import PieceFiles
from seqserve_export.word_files import WordFiles

SUFFIX = ".argosmodel"
METADATA_FILE = "metadata.json"
MODEL_DIRECTORY = "model"
PIECES = ("sentencepiece.model", "bpe.model")
CODES = "bpe.model"  # merges of another subword method, with Moses' tokenisation before it
# What Argos Translate asks of translate_batch for one answer; the rest is CTranslate2's own.
SEARCH = dataclasses.replace(ctranslate2.DEFAULT_SEARCH, beam_size=4, length_penalty=0.2)
RECORDED = ("from_code", "to_code", "package_version", "argos_version", "type", "target_prefix")


def recognises(source: Path) -> bool:
    """A file named like a package, or a directory with metadata beside (or one level above) a CTranslate2 model."""
    if source.is_file():
        return source.suffix == SUFFIX
    return _root(source) is not None


def load(source: Path) -> LoadedCheckpoint:
    """Read a package; an archive is unpacked into a temporary directory, without what is not needed (Stanza)."""
    if source.is_dir():
        return _load_directory(source, source)
    refuse_lfs_pointer(source)
    with tempfile.TemporaryDirectory(prefix="seqserve-argos-") as name:
        unpack_zip(source, Path(name), _wanted)
        return _load_directory(Path(name), source)


def _wanted(path: PurePosixPath) -> bool:
    """Whether a file of the archive is read: those of the model, and those beside it."""
    *directories, name = path.parts
    if directories[-1:] == [MODEL_DIRECTORY]:
        return len(directories) <= 2
    return len(directories) <= 1 and name in (METADATA_FILE, *PIECES)


def _root(directory: Path) -> Path | None:
    """Where the metadata and the model are: the directory itself, or the only one in it that has both."""
    def complete(path: Path) -> bool:
        return (path / METADATA_FILE).is_file() and (path / MODEL_DIRECTORY).is_dir()

    if complete(directory):
        return directory
    below = [path for path in directory.iterdir() if path.is_dir() and complete(path)]
    return below[0] if len(below) == 1 else None


def _load_directory(directory: Path, shown: Path) -> LoadedCheckpoint:
    """Read an unpacked package; messages and the record name ``shown``, the source that the caller gave."""
    root = _root(directory)
    if root is None:
        raise ExportError(f"{shown}: not a package: no {METADATA_FILE} with a directory {MODEL_DIRECTORY} beside it")
    try:
        metadata = read_json(root / METADATA_FILE)
        checkpoint = ctranslate2.load(root / MODEL_DIRECTORY, pieces=root)
    except ExportError as error:
        # A path in the temporary directory would tell nobody anything.
        raise ExportError(str(error).replace(str(directory), str(shown))) from None
    pieces = [root / name for name in PIECES if (root / name).is_file()]
    files = [root / METADATA_FILE, *pieces, *([shown] if shown.is_file() else [])]
    record = {name: metadata[name] for name in RECORDED if name in metadata}
    provenance = {
        **checkpoint.provenance, "source_class": "Argos Translate package", "argos": record,
        "source_files": checkpoint.provenance["source_files"] | digests(files),
    }
    config = checkpoint.model.config
    prompt = (config.decoder_start_id, *_forced(record, checkpoint, shown))
    return dataclasses.replace(
        checkpoint, family="argos", provenance=provenance, decoder_prompt=prompt, search=SEARCH,
        default_max_new_tokens=min(checkpoint.default_max_new_tokens, config.max_target_length - len(prompt) + 1),
        notes=(*_notes(root), *checkpoint.notes),
    )


def _forced(record: dict[str, Any], checkpoint: LoadedCheckpoint, shown: Path) -> tuple[int, ...]:
    """The id of ``target_prefix``, a language token that every translation of a multilingual package starts with."""
    prefix = record.get("target_prefix")
    if not prefix:
        return ()
    tokenizer = checkpoint.tokenizer
    entries = tokenizer.target if isinstance(tokenizer, PieceFiles | WordFiles) else ()
    if not isinstance(prefix, str) or prefix not in entries:
        raise ExportError(f"{shown}: {METADATA_FILE}: target_prefix {prefix!r} is no token of the target vocabulary")
    return (entries.index(prefix),)


def weights(source: Path) -> Path:
    """The package itself, or the file with the weights in its directory."""
    root = None if source.is_file() else _root(source)
    return source if root is None else ctranslate2.weights(root / MODEL_DIRECTORY)


def _notes(root: Path) -> tuple[str, ...]:
    """What Argos Translate does besides the model."""
    notes = [
        "Argos Translate splits a text into sentences and replaces unknown tokens; the bundle takes one sentence and "
        "leaves them"
    ]
    if (root / CODES).is_file():
        notes.append(f"{CODES} is not applied: texts are taken as tokens between spaces, already split by it")
    return tuple(notes)
