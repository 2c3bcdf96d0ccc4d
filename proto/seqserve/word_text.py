"""Vocabularies of whole words, and how texts become their ids. Here because export writes what the server reads.

A text is split, each part is looked up as it is, and answers are joined with single spaces: nothing is lower-cased and
no punctuation is split off, since models were trained on whatever their own preparation made.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from seqserve.bundle import SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE, TOKENIZER_CONFIG_FILE, BundleError
from seqserve.text_errors import UnknownWord
from seqserve.whole_files import read_entries, read_object

KIND = "words"
SPACES, WHITESPACE = "spaces", "whitespace"
SPLITS = (SPACES, WHITESPACE)


@dataclass(frozen=True)
class WordVocabulary:
    """Both sides' entries in id order.

    Attributes:
        unk_token: What stands for words that ``source`` lacks; None refuses such texts.
        special_tokens: Target entries that texts of answers leave out.
        split: "spaces" (U+0020 only, as ``line.split(" ")``, empty parts left out) or "whitespace" (``line.split()``).
    """

    source: tuple[str, ...] = field(repr=False)
    target: tuple[str, ...] = field(repr=False)
    unk_token: str | None = None
    special_tokens: tuple[str, ...] = ()
    split: str = WHITESPACE

    def check(self, source_size: int | None, target_size: int | None, source_name: str, target_name: str) -> None:
        """One entry for every row of the model's embeddings, none twice.

        Args:
            source_size, target_size: Rows; None where no model is at hand.
            source_name, target_name: What errors begin with.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        sides = ((self.source, source_size, source_name), (self.target, target_size, target_name))
        for entries, size, name in sides:
            if not entries:
                raise BundleError(f"{name}: has no tokens")
            if size is not None and len(entries) != size:
                raise BundleError(f"{name}: {len(entries)} tokens, but the model has {size}")
            if (twice := repeated(entries)) is not None:
                raise BundleError(f"{name}: {twice!r:.60} is there more than once")
        if self.unk_token is not None and self.unk_token not in self.ids:
            raise BundleError(f"{source_name}: has no {self.unk_token:.60}, which stands for unknown words")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Source id of an entry."""
        return {entry: number for number, entry in enumerate(self.source)}

    def encode(self, text: str) -> list[int]:
        """Ids of a text's words.

        Raises:
            UnknownWord: naming its place, where there is no token for such words.
        """
        words = text.split() if self.split == WHITESPACE else [word for word in text.split(" ") if word]
        if self.unk_token is not None:
            unknown = self.ids[self.unk_token]
            return [self.ids.get(word, unknown) for word in words]
        for place, word in enumerate(words, 1):
            if word not in self.ids:  # told by its place: texts of callers get into no message
                raise UnknownWord(f"word {place} is not in the vocabulary, which has no token for unknown words")
        return [self.ids[word] for word in words]

    def of_target(self) -> "WordVocabulary":
        """The vocabulary with which targets are encoded."""
        unknown = self.unk_token if self.unk_token in self.target else None
        return replace(self, source=self.target, unk_token=unknown)

    def settings(self) -> dict[str, object]:
        """What ``tokenizer_config.json`` says. ``joined`` is for readers of bundles to come: one way exists."""
        return {
            "kind": KIND, "split": self.split, "joined": SPACES, "unk_token": self.unk_token,
            "special_tokens": list(self.special_tokens),
        }

    @classmethod
    def read(cls, bundle: Path) -> "WordVocabulary":
        """Of a bundle's ``tokenizer/``.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        settings = read_object(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE)
        unknown, special = settings.get("unk_token"), settings.get("special_tokens", [])
        if unknown is not None and not isinstance(unknown, str):
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: unk_token {unknown!r:.40} is neither a token nor null")
        if not isinstance(special, list) or not all(isinstance(token, str) for token in special):
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: special_tokens {special!r:.40} is not a list of tokens")
        for name, allowed in (("split", SPLITS), ("joined", (SPACES,))):
            if (value := settings.get(name)) not in allowed:
                raise BundleError(f"{TOKENIZER_CONFIG_FILE}: {name} {value!r:.40} is not one of {', '.join(allowed)}")
        source, target = (
            read_entries(bundle / name, name) for name in (SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE)
        )
        return cls(source, target, unknown, tuple(special), str(settings["split"]))


def repeated(entries: Iterable[str]) -> str | None:
    """The first entry that is there more than once."""
    return next((entry for entry, count in Counter(entries).items() if count > 1), None)
