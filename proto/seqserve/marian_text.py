"""Marian's vocabularies, and how its texts become ids: the part of it that needs no SentencePiece library.

Here because both sides need it: export checks the files and proves on sentences, the server serves them. The rules are
those of transformers' ``MarianTokenizer`` 5.23:

* the end, unknown and padding tokens are taken out of the text wherever they stand, and become their ids;
* of each part between them, a leading ``>>code<<`` is one token and never reaches SentencePiece;
* SentencePiece's pieces are looked up by their text, since its own numbers are not Marian's; others are unknown;
* nothing else happens to the text: its Moses normaliser is set up but not applied.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seqserve.bundle import (
    SOURCE_PIECES_FILE,
    SOURCE_VOCABULARY_FILE,
    TARGET_PIECES_FILE,
    TARGET_VOCABULARY_FILE,
    TOKENIZER_CONFIG_FILE,
    BundleError,
)
from seqserve.text_errors import UnknownLanguage, UnknownWord
from seqserve.whole_files import read_object, read_vocabulary

KIND = "marian"
SOURCE_PIECES, TARGET_PIECES, SOURCE_VOCABULARY, TARGET_VOCABULARY, SETTINGS = (
    Path(name).name for name in (
        SOURCE_PIECES_FILE, TARGET_PIECES_FILE, SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE, TOKENIZER_CONFIG_FILE,
    )
)
_OPEN, _CLOSE = ">>", "<<"
_SHOWN_CODES = 10

Pieces = Callable[[str], list[str]]


@dataclass(frozen=True)
class MarianSettings:
    """What ``tokenizer_config.json`` says, in a checkpoint and in a bundle. The names are transformers' keys.

    Attributes:
        separate_vocabs: ``vocab.json`` is the source's and ``target_vocab.json`` the target's; else one is for both.
    """

    separate_vocabs: bool = False
    unk_token: str = "<unk>"  # noqa: S105 - no secret
    eos_token: str = "</s>"  # noqa: S105 - no secret
    pad_token: str = "<pad>"  # noqa: S105 - no secret

    @classmethod
    def read(cls, path: Path, shown: str) -> "MarianSettings":
        """Of a file that may have other keys too; of no file the defaults.

        Raises:
            BundleError: one line that begins with ``shown``.
        """
        values = read_object(path, shown) if path.is_file() else {}
        settings: dict[str, Any] = {"separate_vocabs": values.get("separate_vocabs", False)}
        if not isinstance(settings["separate_vocabs"], bool):
            raise BundleError(f"{shown}: separate_vocabs {settings['separate_vocabs']!r:.40} is neither true nor false")
        for name in ("unk_token", "eos_token", "pad_token"):
            token = values.get(name, getattr(cls, name))
            token = token.get("content") if isinstance(token, dict) else token  # as older versions wrote it
            if not isinstance(token, str) or not token:
                raise BundleError(f"{shown}: {name} is not a token")
            settings[name] = token
        return cls(**settings)

    @property
    def special(self) -> tuple[str, ...]:
        """The tokens that are no content."""
        return self.unk_token, self.eos_token, self.pad_token


@dataclass(frozen=True)
class MarianVocabulary:
    """Token to id of both sides, the same dictionary where they share one."""

    settings: MarianSettings
    source: dict[str, int] = field(repr=False)
    target: dict[str, int] = field(repr=False)

    @classmethod
    def read(cls, directory: Path, shown: str, settings: MarianSettings) -> "MarianVocabulary":
        """Of ``vocab.json`` and, for separate ones, ``target_vocab.json``.

        Args:
            shown: What stands before a file's name in errors.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        source = read_vocabulary(directory / SOURCE_VOCABULARY, f"{shown}{SOURCE_VOCABULARY}")
        if settings.unk_token not in source:
            raise BundleError(f"{shown}{SOURCE_VOCABULARY}: has no {settings.unk_token}")
        target = source
        if settings.separate_vocabs:
            target = read_vocabulary(directory / TARGET_VOCABULARY, f"{shown}{TARGET_VOCABULARY}")
        return cls(settings, source, target)

    def of_target(self) -> "MarianVocabulary":
        """The vocabulary with which targets are encoded."""
        return self if self.target is self.source else replace(self, source=self.target)

    def check_sizes(self, source_size: int, target_size: int, shown: str) -> None:
        """Every id has a row in the model's embedding.

        Raises:
            BundleError: naming the file, the token and the model's size.
        """
        sides = ((self.source, source_size, SOURCE_VOCABULARY), (self.target, target_size, TARGET_VOCABULARY))
        for vocabulary, size, name in sides:
            token = max(vocabulary, key=vocabulary.__getitem__)
            if vocabulary[token] >= size:
                file = SOURCE_VOCABULARY if vocabulary is self.source else name
                raise BundleError(
                    f"{shown}{file}: {token!r:.60} has id {vocabulary[token]}, but the model has {size} tokens"
                )

    def ids(self, text: str, pieces: Pieces) -> list[int]:
        """Ids of a text, without the end token.

        Args:
            pieces: The source side's SentencePiece.

        Raises:
            UnknownWord: a piece is not in the vocabulary, which has no token for unknown ones, as targets' may not.
            UnknownLanguage: a leading ``>>code<<`` is none of several that the model has. transformers makes it the
                unknown token, and the answer then comes in any language.
        """
        found: list[int] = []
        unknown = self.source.get(self.settings.unk_token)
        for part in self._special_pattern.split(text):
            if part in self._special:
                found.append(self.source[part])
            elif part:
                for token in self._tokens(part, pieces):
                    if (token_id := self.source.get(token, unknown)) is None:
                        problem = "is not in the vocabulary, which has no token for unknown ones"
                        raise UnknownWord(f"piece {len(found) + 1} {problem}")
                    found.append(token_id)
        return found

    def _tokens(self, part: str, pieces: Pieces) -> list[str]:
        end = part.find(_CLOSE) if part.startswith(_OPEN) else -1
        if end < 0:
            return pieces(part)
        code, rest = part[: end + len(_CLOSE)], part[end + len(_CLOSE) :]
        if code not in self.source and len(self.language_codes) > 1:
            known = ", ".join(self.language_codes[:_SHOWN_CODES])
            more = ", ..." if len(self.language_codes) > _SHOWN_CODES else ""
            raise UnknownLanguage(f"the >>code<< that it begins with is none of the model's languages: {known}{more}")
        return [code, *pieces(rest)]

    @cached_property
    def language_codes(self) -> tuple[str, ...]:
        """The source's tokens of the form ``>>code<<``; models with one target language have none."""
        return tuple(sorted(token for token in self.source if token.startswith(_OPEN) and token.endswith(_CLOSE)))

    @cached_property
    def _special(self) -> frozenset[str]:
        return frozenset(token for token in self.settings.special if token in self.source)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Split by it, a text gives its parts and, in between, the special tokens; of two at a place the longer."""
        return re.compile("(" + "|".join(map(re.escape, sorted(self._special, key=len, reverse=True))) + ")")

    @cached_property
    def source_entries(self) -> dict[int, str]:
        """Source token of an id."""
        return {token_id: token for token, token_id in self.source.items()}

    @cached_property
    def target_entries(self) -> dict[int, str]:
        """Target token of an id."""
        return {token_id: token for token, token_id in self.target.items()}
