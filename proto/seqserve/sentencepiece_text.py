"""Texts and ids of models with one SentencePiece file for both sides: the part that needs no SentencePiece library.

Here because both sides need it: export checks the files and proves on sentences, the server serves them. The rules are
those by which transformers 5.23 reads such files (T5, mBART, NLLB, Pegasus, XLM-R), one after the other:

* entries (special tokens, sentinels, languages, symbols of the user) are taken out of the text wherever they stand, and
  become their ids; of several at a place the longest;
* the parts between are normalised by the model's own character map, unless the family leaves it out;
* they are split at whitespace, which is then gone, or only at spaces, of which a last one stays as a piece of its own;
* every word is cut into pieces alone, with a space before it whether there was one or not;
* what no piece covers is one unknown token, also where the model could fall back to bytes.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seqserve.bundle import BundleError
from seqserve.sentencepiece_file import BYTE, UNKNOWN, Piece
from seqserve.whole_files import read_object

KIND = "sentencepiece"
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# Unicode's White_Space. Python's own notion has four control characters more.
_WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WORD = re.compile(f"[^{_WHITESPACE}]+")
_SPACES = re.compile(" {2,}")
_SEGMENT = re.compile(f"{SPACE}[^{SPACE}]*")

Normalise = Callable[[str], str]
Cut = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A token outside the cutting of words.

    Attributes:
        special: Whether it is left out of decoded texts.
        lstrip, rstrip: Whether whitespace before or after it in a text belongs to it.
    """

    token: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class SentencePieceSettings:
    """A bundle's ``tokenizer_config.json``.

    Attributes:
        offset: A piece's id is its number in the model and this, except where an entry has its text.
        unk_token: The entry that stands for what no piece covers.
        normalizes: Whether the model's character map is applied.
        splits_at_whitespace: At all of it, and not at spaces alone.
    """

    offset: int
    unk_token: str
    normalizes: bool
    splits_at_whitespace: bool
    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def read(cls, path: Path, shown: str) -> "SentencePieceSettings":
        """Of a bundle's file.

        Raises:
            BundleError: one line that begins with ``shown``.
        """
        values = read_object(path, shown)
        try:
            entries = tuple(Entry(**entry) for entry in values["entries"])
            settings = cls(**{**{name: value for name, value in values.items() if name != "kind"}, "entries": entries})
        except KeyError as error:
            raise BundleError(f"{shown}: has no {error.args[0]}") from None
        except TypeError as error:
            raise BundleError(f"{shown}: malformed: {error}"[:200]) from None
        settings._check(shown)
        return settings

    def _check(self, shown: str) -> None:
        if isinstance(self.offset, bool) or not isinstance(self.offset, int):
            raise BundleError(f"{shown}: offset {self.offset!r:.40} is not an integer")
        for name in ("normalizes", "splits_at_whitespace"):
            if not isinstance(getattr(self, name), bool):
                raise BundleError(f"{shown}: {name} {getattr(self, name)!r:.40} is neither true nor false")
        for entry in self.entries:
            if not isinstance(entry.token, str) or not entry.token:
                raise BundleError(f"{shown}: entries: {entry.token!r:.40} is not a token")
            if isinstance(entry.id, bool) or not isinstance(entry.id, int) or entry.id < 0:
                raise BundleError(f"{shown}: entries: the id of {entry.token!r:.40} is {entry.id!r:.40}")
            if not all(isinstance(flag, bool) for flag in (entry.special, entry.lstrip, entry.rstrip)):
                raise BundleError(f"{shown}: entries: {entry.token!r:.40} has flags that are neither true nor false")
        if self.unk_token not in {entry.token for entry in self.entries}:
            raise BundleError(f"{shown}: unk_token {self.unk_token!r:.40} is none of the entries")


@dataclass(frozen=True)
class SentencePieceVocabulary:
    """Ids of texts and texts of ids."""

    settings: SentencePieceSettings
    pieces: tuple[Piece, ...] = field(repr=False)

    def check_size(self, size: int, shown: str) -> None:
        """Every id has a row in the model's embedding.

        Raises:
            BundleError: naming the token and the model's size, after ``shown``.
        """
        if min(self.numbers, default=0) < 0:
            raise BundleError(f"{shown}: offset {self.settings.offset} makes negative ids")
        token_id = max(self.texts)
        if token_id >= size:
            token = self.texts[token_id]
            raise BundleError(f"{shown}: {token!r:.60} has id {token_id}, but the model has {size} tokens")

    @cached_property
    def by_token(self) -> dict[str, Entry]:
        """The entries."""
        return {entry.token: entry for entry in self.settings.entries}

    @cached_property
    def unknown_id(self) -> int:
        """The id of what no piece covers."""
        return self.by_token[self.settings.unk_token].id

    @cached_property
    def numbers(self) -> list[int]:
        """Ids by the pieces' numbers in the model."""
        return [
            self.by_token[piece.text].id if piece.text in self.by_token else number + self.settings.offset
            for number, piece in enumerate(self.pieces)
        ]

    @cached_property
    def texts(self) -> dict[int, str]:
        """Tokens by their ids."""
        pieces = {token_id: piece.text for token_id, piece in zip(self.numbers, self.pieces, strict=True)}
        return pieces | {entry.id: entry.token for entry in self.settings.entries}

    @cached_property
    def ids_by_text(self) -> dict[str, int]:
        """Ids by their tokens."""
        return {token: token_id for token_id, token in self.texts.items()}

    def ids(self, text: str, normalise: Normalise, cut: Cut) -> list[int]:
        """Ids of a text, without special tokens around it.

        Args:
            normalise: The model's character map.
            cut: Numbers of the pieces of a word with its space before it.
        """
        found: list[int] = []
        for part, entry in self._parts(text):
            if entry is not None:
                found.append(entry.id)
                continue
            for word in self._words(normalise(part) if self.settings.normalizes else part):
                found += self._word_ids(cut(word))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids. Special tokens and ids without an entry are left out; the first token loses its space."""
        tokens = [self.texts[token_id] for token_id in ids if token_id in self.texts and token_id not in self._special]
        return self.join(tokens)

    def join(self, tokens: Sequence[str]) -> str:
        """Text of pieces; the first loses its space."""
        if not tokens:
            return ""
        return tokens[0].replace(SPACE, "") + "".join(tokens[1:]).replace(SPACE, " ")

    def _word_ids(self, numbers: list[int]) -> Iterator[int]:
        unknown_before = False
        for number in numbers:
            unknown = self._uncovered[number]
            if not unknown:
                yield self.numbers[number]
            elif not unknown_before:
                yield self.unknown_id
            unknown_before = unknown

    def _words(self, text: str) -> Iterator[str]:
        """Words with their space before them."""
        parts = _WORD.findall(text) if self.settings.splits_at_whitespace else [_SPACES.sub(" ", text)] if text else []
        for part in parts:
            marked = part.replace(" ", SPACE)
            yield from _SEGMENT.findall(marked if marked.startswith(SPACE) else SPACE + marked)

    def _parts(self, text: str) -> Iterator[tuple[str, Entry | None]]:
        begin = 0
        for match in self._pattern.finditer(text):
            if match.start() > begin:
                yield text[begin : match.start()], None
            yield "", self.by_token[next(token for token in match.groups() if token is not None)]
            begin = match.end()
        if begin < len(text):
            yield text[begin:], None

    @cached_property
    def _uncovered(self) -> list[bool]:
        """By the pieces' numbers: whether it stands for characters that no piece covers."""
        return [piece.kind in (UNKNOWN, BYTE) for piece in self.pieces]

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(entry.id for entry in self.settings.entries if entry.special)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds entries in a text; of several at a place the longest."""
        space = f"[{_WHITESPACE}]*"
        return re.compile("|".join(
            f"{space if entry.lstrip else ''}({re.escape(entry.token)}){space if entry.rstrip else ''}"
            for entry in sorted(self.settings.entries, key=lambda entry: len(entry.token), reverse=True)
        ))
