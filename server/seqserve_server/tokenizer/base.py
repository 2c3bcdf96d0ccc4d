"""What serving asks of a tokenizer, and which one a bundle has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from seqserve.bundle import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, BundleError, ModelDescription
from seqserve.m2m100_text import KIND as M2M100
from seqserve.marian_text import KIND as MARIAN
from seqserve.marian_text import read_object


class Tokenizer(ABC):
    """A bundle's tokenizer. Content only: special tokens are the model description's business.

    ``encode`` and ``id_of`` speak the source's vocabulary, ``decode`` and ``tokens`` the target's.
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
            if kind == MARIAN:
                from seqserve_server.tokenizer.marian import MarianTokenizer

                return MarianTokenizer.read(bundle, model)
            if kind == M2M100:
                from seqserve_server.tokenizer.m2m100 import M2M100Tokenizer

                return M2M100Tokenizer.read(bundle, model)
            raise BundleError(f"{TOKENIZER_CONFIG_FILE}: kind {kind!r:.40} is not one of {MARIAN!r}, {M2M100!r}")
        if (bundle / TOKENIZER_FILE).exists():
            from seqserve_server.tokenizer.hub import HubTokenizer

            return HubTokenizer.read(bundle)
        return None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it.

        Raises:
            UnknownLanguage: a multilingual Marian model was asked for a language that it does not have.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
