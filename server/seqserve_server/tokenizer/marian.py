"""Marian's SentencePiece tokenizer: pieces from two models, ids from vocabularies of their own.

Equal to transformers' ``MarianTokenizer`` 5.23 in ids and text (``bench/peers/marian_tokenizer.py`` compares), except:

* an id without an entry has no text; there it is looked up among SentencePiece's own numbers, where an unrelated piece
  may stand;
* of separate vocabularies, the target's special tokens are left out of the text; there, what has the ids of the
  source's, which is the same for vocabularies of one size, and a word lost for others;
* an unknown ``>>code<<`` is refused by multilingual models (``MarianVocabulary.ids``).
"""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from seqserve.bundle import (
    SOURCE_PIECES_FILE,
    TARGET_PIECES_FILE,
    TOKENIZER_CONFIG_FILE,
    BundleError,
    ModelDescription,
)
from seqserve.marian_text import MarianSettings, MarianVocabulary
from seqserve.sentencepiece_file import read_model_file
from seqserve_server.tokenizer.base import Tokenizer

_FOLDER = "tokenizer/"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class MarianTokenizer(Tokenizer):
    """The source's SentencePiece model encodes. It decodes too where both sides share a vocabulary, else the target's.

    That the source's decodes is transformers' choice since version 5, and seldom visible: decoding joins the texts of
    pieces, and asks the model only which of them are bytes or control tokens.
    """

    def __init__(
        self, vocabulary: MarianVocabulary, source: SentencePieceProcessor, target: SentencePieceProcessor
    ) -> None:
        self._vocabulary, self._source, self._target = vocabulary, source, target
        self._target_vocabulary = vocabulary.of_target()
        self._decoding = target if vocabulary.settings.separate_vocabs else source
        self._entries = vocabulary.target_entries
        special = vocabulary.settings.special
        self._texts = {token_id: token for token_id, token in self._entries.items() if token not in special}

    @classmethod
    def read(cls, bundle: Path, model: ModelDescription | None) -> "MarianTokenizer":
        """The files of a bundle.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        settings = MarianSettings.read(bundle / TOKENIZER_CONFIG_FILE, TOKENIZER_CONFIG_FILE)
        vocabulary = MarianVocabulary.read(bundle / _FOLDER, _FOLDER, settings)
        if model is not None:
            vocabulary.check_sizes(model.source_vocab_size, model.target_vocab_size, _FOLDER)
        return cls(vocabulary, open_pieces(bundle, SOURCE_PIECES_FILE), open_pieces(bundle, TARGET_PIECES_FILE))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the end token; a leading ``>>code<<`` is one of them."""
        return self._vocabulary.ids(text, self._pieces)

    def encode_target(self, text: str) -> list[int]:
        """Target ids of a text, by the target's SentencePiece model; raises as ``encode`` does."""
        return self._target_vocabulary.ids(text, self._target_pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without spaces around it; special tokens and ids without an entry are left out."""
        pieces = [self._texts[token_id] for token_id in ids if token_id in self._texts]
        text: str = self._decoding.Decode(pieces) if pieces else ""
        return text.replace(_SPACE, " ").strip()

    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's."""
        text: str = self._decoding.Decode(list(tokens)) if tokens else ""
        return text.replace(_SPACE, " ").strip()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Target entries of ids; an id without an entry reads as its number in angle brackets."""
        return [self._entries.get(token_id, f"<{token_id}>") for token_id in ids]

    def source_tokens(self, ids: Sequence[int]) -> list[str]:
        """Source entries of ids, in the same way."""
        return [self._vocabulary.source_entries.get(token_id, f"<{token_id}>") for token_id in ids]

    def id_of(self, token: str) -> int | None:
        """Id of a source entry."""
        return self._vocabulary.source.get(token)

    def target_id_of(self, token: str) -> int | None:
        """Id of a target entry."""
        return self._vocabulary.target.get(token)

    def _pieces(self, part: str) -> list[str]:
        pieces: list[str] = self._source.Encode(part, out_type=str)
        return pieces

    def _target_pieces(self, part: str) -> list[str]:
        pieces: list[str] = self._target.Encode(part, out_type=str)
        return pieces


def open_pieces(bundle: Path, name: str) -> SentencePieceProcessor:
    """A bundle's SentencePiece model.

    Raises:
        BundleError: naming the file and what is wrong with it.
    """
    data, processor = read_model_file(bundle / name, name), SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
        raise BundleError(f"{name}: not a usable SentencePiece model: {str(error).strip()}".splitlines()[0]) from None
    return processor
