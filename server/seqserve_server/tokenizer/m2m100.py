"""M2M100's SentencePiece tokenizer: one model, its pieces numbered by vocab.json, languages behind them.

Equal to transformers' ``M2M100Tokenizer`` 5.23 in ids and text (``bench/peers/hub_parity.py --models`` compares),
except that an id without an entry, and a language's, has no text; there it reads ``<unk>`` or ``__de__``.
"""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from seqserve.bundle import SOURCE_PIECES_FILE, SOURCE_VOCABULARY_FILE, ModelDescription
from seqserve.m2m100_text import M2M100Vocabulary
from seqserve_server.tokenizer.base import Tokenizer
from seqserve_server.tokenizer.marian import open_pieces


class M2M100Tokenizer(Tokenizer):
    """One vocabulary for both sides."""

    def __init__(self, vocabulary: M2M100Vocabulary, processor: SentencePieceProcessor) -> None:
        self._vocabulary, self._processor = vocabulary, processor
        special = vocabulary.special
        self._texts = {number: token for token, number in vocabulary.entries.items() if token not in special}

    @classmethod
    def read(cls, bundle: Path, model: ModelDescription | None) -> "M2M100Tokenizer":
        """The files of a bundle.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        vocabulary = M2M100Vocabulary.read(bundle)
        if model is not None:
            vocabulary.check_size(min(model.source_vocab_size, model.target_vocab_size), SOURCE_VOCABULARY_FILE)
        return cls(vocabulary, open_pieces(bundle, SOURCE_PIECES_FILE))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without language and end tokens."""
        return self._vocabulary.ids(text, self._pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without spaces around it; special tokens and ids without an entry are left out."""
        pieces = [self._texts[token_id] for token_id in ids if token_id in self._texts]
        text: str = self._processor.Decode(pieces) if pieces else ""
        return text.strip()

    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's."""
        text: str = self._processor.Decode(list(tokens)) if tokens else ""
        return text.strip()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""
        return [self._vocabulary.tokens_by_id.get(token_id, f"<{token_id}>") for token_id in ids]

    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
        return self._vocabulary.ids_by_token.get(token)

    def _pieces(self, part: str) -> list[str]:
        pieces: list[str] = self._processor.Encode(part, out_type=str)
        return pieces
