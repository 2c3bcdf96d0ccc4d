"""What serving asks of a tokenizer, and which one a bundle has."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from seqserve.bundle import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, BundleError, ModelDescription
from seqserve.m2m100_text import KIND as M2M100
from seqserve.marian_text import KIND as MARIAN
from seqserve.sentencepiece_text import KIND as SENTENCEPIECE
from seqserve.whole_files import read_object
from seqserve.word_text import KIND as WORDS

# Module and class of each kind. They import this module, and no bundle needs the libraries of two.
KINDS = {
    MARIAN: ("marian", "MarianTokenizer"),
    M2M100: ("m2m100", "M2M100Tokenizer"),
    SENTENCEPIECE: ("sentencepiece", "SentencePieceTokenizer"),
    WORDS: ("words", "WordTokenizer"),
}


class Tokenizer(ABC):
    """A bundle's tokenizer. Content only: special tokens are the model description's business.

    ``encode``, ``id_of`` and ``source_tokens`` speak the source's vocabulary; ``encode_target``, ``target_id_of``,
    ``decode`` and ``tokens`` the target's.
    """

    @staticmethod
    def open(bundle: Path, model: ModelDescription | None = None) -> "Tokenizer | None":
        """The bundle's tokenizer, or None where it has none.

        Args:
            model: Where given, the tokenizer's ids have to fit its vocabularies.

        Raises:
            BundleError: one line that names the file and what is wrong.
        """
        if (bundle / TOKENIZER_CONFIG_FILE).exists():
            kind = read_object(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE).get("kind")
            if kind not in KINDS:
                raise BundleError(f"{TOKENIZER_CONFIG_FILE}: kind {kind!r:.40} is not one of {', '.join(KINDS)}")
            module, name = KINDS[kind]
            reader: type[Tokenizer] = getattr(importlib.import_module(f"seqserve_server.tokenizer.{module}"), name)
            return reader.read(bundle, model)
        if (bundle / TOKENIZER_FILE).exists():
            from seqserve_server.tokenizer.hub import HubTokenizer

            return HubTokenizer.read(bundle)
        return None

    @classmethod
    @abstractmethod
    def read(cls, bundle: Path, model: ModelDescription | None) -> "Tokenizer":
        """Of a bundle whose tokenizer is of this kind.

        Raises:
            BundleError: one line that names the file and what is wrong.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it.

        Raises:
            UnencodableText: with a word or language that the vocabulary lacks.
        """

    def encode_target(self, text: str) -> list[int]:
        """Target ids of a text; the same as ``encode`` where both sides share everything. Raises as it does."""
        return self.encode(text)

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""

    @abstractmethod
    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's; none is special."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""

    def source_tokens(self, ids: Sequence[int]) -> list[str]:
        """Source entries of ids; the same as ``tokens`` where both sides share a vocabulary."""
        return self.tokens(ids)

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """Source id of a vocabulary entry."""

    def target_id_of(self, token: str) -> int | None:
        """Target id of a vocabulary entry; the same where both sides share a vocabulary."""
        return self.id_of(token)
