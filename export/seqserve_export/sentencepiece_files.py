"""Directories with one SentencePiece model for both sides, and each family's habit of numbering its pieces."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve import bundle
from seqserve.bundle import BundleError
from seqserve.sentencepiece_file import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Piece, read_model, without_normaliser
from seqserve.sentencepiece_text import Entry, SentencePieceSettings, SentencePieceVocabulary
from seqserve.whole_files import read_object
from seqserve_export.errors import ExportError
from seqserve_export.model import TransformerConfig
from seqserve_export.tokenizer_files import SETTINGS_FILE, Encoder, TokenizerFiles, check_end, token_text

UNK, EOS, MASK = "<unk>", "</s>", "<mask>"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
T5_SENTINELS, PEGASUS_OFFSET = 100, 103  # where tokenizer_config.json says nothing


@dataclass(frozen=True)
class Habit:
    """What transformers 5.23 does with a family's model file.

    Attributes:
        file: Its name in the directory.
        first: Tokens of the ids from 0, or none: the model's own numbers are the ids.
        normalizes: mBART's class sets up no normaliser, although its models were trained with one.
        splits_at_whitespace: See ``SentencePieceSettings``.
    """

    file: str
    first: tuple[str, ...] = ()
    normalizes: bool = True
    splits_at_whitespace: bool = True


FAIRSEQ_FIRST = ("<s>", "<pad>", EOS, UNK)
FAIRSEQ_FILE = "sentencepiece.bpe.model"
HABITS = {
    "t5": Habit("spiece.model"),
    "pegasus": Habit("spiece.model", splits_at_whitespace=False),
    "fairseq": Habit(FAIRSEQ_FILE, FAIRSEQ_FIRST),  # XLM-R and its relatives
    "mbart": Habit(FAIRSEQ_FILE, FAIRSEQ_FIRST, normalizes=False),
    "nllb": Habit(FAIRSEQ_FILE, FAIRSEQ_FIRST, splits_at_whitespace=False),
}


@dataclass(frozen=True)
class SentencePieceFiles(TokenizerFiles):
    """One model file, and how its pieces become ids."""

    path: Path
    vocabulary: SentencePieceVocabulary = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, directory: Path, habit: str, config: TransformerConfig, languages: Sequence[str] = ()
    ) -> "SentencePieceFiles":
        """Check a directory's model file against the model.

        Args:
            habit: A key of ``HABITS``.
            languages: Codes of a fairseq model, in the order of their ids, which follow the pieces.

        Raises:
            ExportError: naming the file and what is wrong with it.
        """
        rules = HABITS[habit]
        path = directory / rules.file
        try:
            _, pieces = read_model(path, str(path))
            named = _named(directory)
            entries, offset = _entries(habit, pieces, named, languages, str(path))
            entries = _overlaid(entries, named, directory)
            entries += _further(entries, pieces, offset, named)
            settings = SentencePieceSettings(
                offset, UNK, rules.normalizes, rules.splits_at_whitespace, tuple(entries)
            )
            vocabulary = SentencePieceVocabulary(settings, pieces)
            vocabulary.check_size(min(config.source_vocab_size, config.target_vocab_size), str(path))
        except BundleError as error:
            raise ExportError(str(error)) from None
        check_end(str(path), EOS, vocabulary.ids_by_text.get(EOS), config)
        in_bytes = f"{rules.file}: falls back to bytes; here, as in transformers, what no piece covers is {UNK}"
        return cls(path, vocabulary, (in_bytes,) if any(piece.kind == BYTE for piece in pieces) else ())

    @property
    def unknown_id(self) -> int:
        """The id of the unknown token."""
        return self.vocabulary.unknown_id

    def write(self, directory: Path) -> None:
        """Copy the model file, and write how its pieces become ids."""
        (directory / bundle.PIECES_FILE).parent.mkdir()
        shutil.copyfile(self.path, directory / bundle.PIECES_FILE)
        text = json.dumps(self.vocabulary.settings.to_dict(), indent=1, sort_keys=True) + "\n"
        (directory / bundle.TOKENIZER_CONFIG_FILE).write_text(text, encoding="utf-8")

    def encoder(self) -> Encoder:
        """By the ``sentencepiece`` library."""
        from sentencepiece import SentencePieceNormalizer, SentencePieceProcessor

        data = read_model(self.path, str(self.path))[0]
        try:
            normaliser = SentencePieceNormalizer(
                model_proto=data, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
            )
            processor = SentencePieceProcessor(model_proto=without_normaliser(data))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise ExportError(f"{self.path}: not a usable SentencePiece model: {error}".splitlines()[0]) from None
        return lambda text: self.vocabulary.ids(text, normaliser.Normalize, processor.EncodeAsIds)


def _entries(
    habit: str, pieces: tuple[Piece, ...], named: dict[str, Any], languages: Sequence[str], shown: str
) -> tuple[list[Entry], int]:
    """Tokens outside the cutting of words, and what is added to the numbers of pieces."""
    if habit == "t5":
        return _t5(pieces, named), 0
    if habit == "pegasus":
        return _pegasus(pieces, named, shown)
    if [piece.text for piece in pieces[:3]] != [UNK, "<s>", EOS]:
        raise BundleError(f"{shown}: does not begin with {UNK}, <s> and {EOS}, as fairseq's models do")
    # Three pieces of the model become four tokens; languages and the mask follow the pieces.
    behind = len(pieces) + 1
    entries = [Entry(token, token_id) for token_id, token in enumerate(FAIRSEQ_FIRST)]
    entries += _user_defined(pieces, 1)
    entries += [Entry(code, behind + place) for place, code in enumerate(languages)]
    return [*entries, Entry(MASK, behind + len(languages), lstrip=True)], 1


def _t5(pieces: tuple[Piece, ...], named: dict[str, Any]) -> list[Entry]:
    """The model's own special tokens, and sentinels behind its pieces, the first of them last."""
    entries = [Entry(piece.text, number) for number, piece in enumerate(pieces) if piece.kind in (UNKNOWN, CONTROL)]
    sentinels = _count(named, "extra_ids", T5_SENTINELS)
    last = len(pieces) + sentinels - 1
    return [*entries, *_user_defined(pieces, 0), *(Entry(f"<extra_id_{n}>", last - n) for n in range(sentinels))]


def _pegasus(pieces: tuple[Piece, ...], named: dict[str, Any], shown: str) -> tuple[list[Entry], int]:
    """Padding, end, two masks, and tokens that only pretraining used; the model's pieces come behind."""
    if [piece.text for piece in pieces[:3]] != ["<pad>", EOS, UNK]:
        raise BundleError(f"{shown}: does not begin with <pad>, {EOS} and {UNK}, as Pegasus' models do")
    offset = _count(named, "offset", PEGASUS_OFFSET)
    masks = (_token(named, "mask_token", "<mask_1>"), _token(named, "mask_token_sent", "<mask_2>"))
    first = ["<pad>", EOS, *masks, *(f"<unk_{number}>" for number in range(2, offset))]
    entries = [Entry(token, token_id) for token_id, token in enumerate(first)]
    return [*entries, Entry(UNK, offset + 2), *_user_defined(pieces, offset)], offset


def _user_defined(pieces: tuple[Piece, ...], offset: int) -> list[Entry]:
    """Symbols that the model's trainer was told of: found in texts as they are, and shown in them."""
    return [
        Entry(piece.text, number + offset, special=False)
        for number, piece in enumerate(pieces) if piece.kind == USER_DEFINED
    ]


def _named(directory: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing, where there is none."""
    path = directory / SETTINGS_FILE
    return read_object(path, str(path)) if path.is_file() else {}


def _token(named: dict[str, Any], name: str, default: str) -> str:
    token = token_text(named.get(name)) or default
    if not isinstance(token, str):
        raise BundleError(f"{SETTINGS_FILE}: {name} is not a token")
    return token


def _count(named: dict[str, Any], name: str, default: int) -> int:
    value = named.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BundleError(f"{SETTINGS_FILE}: {name} {value!r:.40} is not a number from 0")
    return value


def _overlaid(entries: list[Entry], named: dict[str, Any], directory: Path) -> list[Entry]:
    """The entries, with those that ``added_tokens_decoder`` names by id in place of what has their id or token."""
    added = named.get("added_tokens_decoder") or {}
    found = {entry.id: entry for entry in entries}
    try:
        for number, token in added.items():
            flags = {name: bool(token.get(name, False)) for name in ("special", "lstrip", "rstrip")}
            found = {key: entry for key, entry in found.items() if entry.token != token["content"]}
            found[int(number)] = Entry(str(token["content"]), int(number), **flags)
        if min(found) < 0:
            raise ValueError(min(found))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BundleError(f"{directory}/{SETTINGS_FILE}: added_tokens_decoder is malformed") from None
    return [found[token_id] for token_id in sorted(found)]


def _further(entries: list[Entry], pieces: tuple[Piece, ...], offset: int, named: dict[str, Any]) -> list[Entry]:
    """Special tokens that the settings name and nothing above has: pieces, or else new ids behind all others."""
    known = {entry.token for entry in entries}
    numbers = {piece.text: number + offset for number, piece in enumerate(pieces)}
    extra = named.get("extra_special_tokens") or named.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else extra
    if not isinstance(extra, list):
        raise BundleError(f"{SETTINGS_FILE}: extra_special_tokens is not a list")
    behind, found = max(*(entry.id for entry in entries), len(pieces) + offset - 1) + 1, []
    for token in map(token_text, [*(named.get(name) for name in NAMED), *extra]):
        if token is None or token in known:
            continue
        if not isinstance(token, str) or not token:
            raise BundleError(f"{SETTINGS_FILE}: {token!r:.40} among the special tokens is not a token")
        known.add(token)
        found.append(Entry(token, numbers.get(token, behind)))
        behind += token not in numbers
    return found
