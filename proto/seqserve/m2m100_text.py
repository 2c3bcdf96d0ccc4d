"""M2M100's vocabulary, and how its texts become ids: the part of it that needs no SentencePiece library.

Export checks the files and proves on sentences, the server serves them. The rules are those of transformers'
``M2M100Tokenizer`` 5.23:

* special tokens are taken out of the text wherever they stand, and become their ids; language tokens (``__de__``) only
  where the checkpoint lists them among its special tokens;
* SentencePiece's pieces are looked up by their text, since its own numbers are not the model's; others are unknown.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seqserve.bundle import SOURCE_VOCABULARY_FILE, TOKENIZER_CONFIG_FILE, BundleError
from seqserve.whole_files import read_object, read_vocabulary

KIND = "m2m100"
VOCABULARY = Path(SOURCE_VOCABULARY_FILE).name
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # by their settings

Pieces = Callable[[str], list[str]]


@dataclass(frozen=True)
class M2M100Vocabulary:
    """Token to id.

    Attributes:
        entries: Of vocab.json.
        languages: Language tokens, whose ids stand behind the entries.
        special: Tokens that are no content; in a text they become their ids.
        unk_token: One of them.
    """

    entries: dict[str, int] = field(repr=False)
    languages: dict[str, int] = field(repr=False)
    special: tuple[str, ...]
    unk_token: str

    @classmethod
    def read(cls, bundle: Path) -> "M2M100Vocabulary":
        """Of a bundle.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        values = read_object(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE)
        entries = read_vocabulary(bundle / SOURCE_VOCABULARY_FILE, SOURCE_VOCABULARY_FILE)
        languages, special, unknown = (values.get(name) for name in ("languages", "special", "unk_token"))
        if not isinstance(languages, dict) or not all(isinstance(number, int) for number in languages.values()):
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: languages is not an object of ids")
        if not isinstance(special, list) or not special or not {*special} <= {*entries, *languages}:
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: special is not a list of tokens with ids")
        if not isinstance(unknown, str) or unknown not in entries:
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: unk_token {unknown!r:.40} is not in {SOURCE_VOCABULARY_FILE}")
        return cls(entries, languages, tuple(special), unknown)

    @property
    def settings(self) -> dict[str, Any]:
        """What ``read`` reads of a bundle's tokenizer_config.json."""
        return {
            "kind": KIND, "languages": self.languages, "special": list(self.special), "unk_token": self.unk_token,
        }

    def check_size(self, size: int, shown: str) -> None:
        """Every id has a row in the model's embedding.

        Raises:
            BundleError: naming the token and the model's size, behind ``shown``.
        """
        token, highest = max(self.ids_by_token.items(), key=lambda item: item[1])
        if highest >= size:
            raise BundleError(f"{shown}: {token!r:.60} has id {highest}, but the model has {size} tokens")

    def ids(self, text: str, pieces: Pieces) -> list[int]:
        """Ids of a text, without language and end tokens.

        Args:
            pieces: SentencePiece.
        """
        found: list[int] = []
        unknown = self.entries[self.unk_token]
        for part in self._special_pattern.split(text):
            if part in self.special:
                found.append(self.ids_by_token[part])
            elif part:
                found += [self.entries.get(piece, unknown) for piece in pieces(part)]
        return found

    @cached_property
    def ids_by_token(self) -> dict[str, int]:
        """Entries and languages."""
        return {**self.entries, **self.languages}

    @cached_property
    def tokens_by_id(self) -> dict[int, str]:
        """The way back."""
        return {number: token for token, number in self.ids_by_token.items()}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Split by it, a text gives its parts and, in between, the special tokens; of two at a place the longer."""
        return re.compile("(" + "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) + ")")
