"""What serving asks of a tokenizer, and which one a bundle has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from seqserve.bundle import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, BundleError, ModelDescription
from seqserve.marian_text import KIND as MARIAN
from seqserve.marian_text import read_object
from seqserve.sentencepiece_text import KIND as SENTENCEPIECE
from seqserve.word_text import KIND as WORDS


class Tokenizer(ABC):
    """A bundle's tokenizer. Content only: special tokens are the model description's business.

    ``encode``, ``id_of`` and ``source_tokens`` speak the source's vocabulary, ``decode`` and ``tokens`` the target's.
    """

    @staticmethod
    def open(bundle: Path, model: ModelDescription | None = None) -> "Tokenizer | None":
        """The bundle's tokenizer, or None where it has none.

        Args:
            model: Where given, the tokenizer's ids have to fit its vocabularies.

        Raises:
            BundleError: one line that names the file and what is wrong.
        """
        # The kinds import this module, and no bundle needs the libraries of two.
        if (bundle / TOKENIZER_CONFIG_FILE).exists():
            kind = read_object(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE).get("kind")
            if kind == SENTENCEPIECE:
                from seqserve_server.tokenizer.sentencepiece import SentencePieceTokenizer

                return SentencePieceTokenizer.read(bundle, model)
            if kind == MARIAN:
                from seqserve_server.tokenizer.marian import MarianTokenizer

                return MarianTokenizer.read(bundle, model)
            if kind == WORDS:
                from seqserve_server.tokenizer.words import WordTokenizer

                return WordTokenizer.read(bundle, model)
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: kind {kind!r:.40} is neither {MARIAN!r} nor {WORDS!r}")
        if (bundle / TOKENIZER_FILE).exists():
            from seqserve_server.tokenizer.hub import HubTokenizer

            return HubTokenizer.read(bundle)
        return None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it.

        Raises:
            UnknownLanguage: a multilingual Marian model was asked for a language that it does not have.
            UnknownWord: a vocabulary of words has neither this one nor a token for unknown ones.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""

    def source_tokens(self, ids: Sequence[int]) -> list[str]:
        """Source entries of ids; the same as ``tokens`` where both sides share a vocabulary."""
        return self.tokens(ids)

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
