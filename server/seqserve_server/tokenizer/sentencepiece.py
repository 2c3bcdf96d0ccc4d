"""One SentencePiece model for both sides, as T5, mBART, NLLB, Pegasus and XLM-R have it.

Equal to transformers 5.23 in ids and text (``bench/peers/sentencepiece_tokenizer.py`` compares).
"""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceNormalizer, SentencePieceProcessor

from seqserve.bundle import PIECES_FILE, TOKENIZER_CONFIG_FILE, BundleError, ModelDescription
from seqserve.sentencepiece_file import read_model, without_normaliser
from seqserve.sentencepiece_text import SentencePieceSettings, SentencePieceVocabulary
from seqserve_server.tokenizer.base import Tokenizer


class SentencePieceTokenizer(Tokenizer):
    """The library normalises and cuts words; everything around that is ``seqserve.sentencepiece_text``."""

    def __init__(self, vocabulary: SentencePieceVocabulary, model: bytes) -> None:
        self._vocabulary = vocabulary
        self._normaliser = SentencePieceNormalizer(
            model_proto=model, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
        )
        self._processor = SentencePieceProcessor(model_proto=without_normaliser(model))

    @classmethod
    def read(cls, bundle: Path, model: ModelDescription | None) -> "SentencePieceTokenizer":
        """The files of a bundle.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        settings = SentencePieceSettings.read(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE)
        data, pieces = read_model(bundle / PIECES_FILE, PIECES_FILE)
        vocabulary = SentencePieceVocabulary(settings, pieces)
        if model is not None:
            vocabulary.check_size(min(model.source_vocab_size, model.target_vocab_size), PIECES_FILE)
        try:
            return cls(vocabulary, data)
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            reason = f"{PIECES_FILE}: not a usable SentencePiece model: {str(error).strip()}"
            raise BundleError(reason.splitlines()[0]) from None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it."""
        return self._vocabulary.ids(text, self._normaliser.Normalize, self._processor.EncodeAsIds)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens and ids without an entry are left out."""
        return self._vocabulary.decode(ids)

    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's."""
        return self._vocabulary.join(tokens)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""
        return [self._vocabulary.texts.get(token_id, f"<{token_id}>") for token_id in ids]

    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
        return self._vocabulary.ids_by_text.get(token)
