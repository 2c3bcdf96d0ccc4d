"""Vocabularies of whole words: a text is its words between spaces."""

from collections.abc import Sequence
from pathlib import Path

from seqserve.bundle import SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE, ModelDescription
from seqserve.word_text import WordVocabulary
from seqserve_server.tokenizer.base import Tokenizer


class WordTokenizer(Tokenizer):
    """Looks words up as they are; the two sides may have different vocabularies."""

    def __init__(self, vocabulary: WordVocabulary) -> None:
        self._vocabulary, self._entries = vocabulary, vocabulary.target
        self._target = vocabulary.of_target()
        special = set(vocabulary.special_tokens)
        self._texts = {number: entry for number, entry in enumerate(self._entries) if entry not in special}

    @classmethod
    def read(cls, bundle: Path, model: ModelDescription | None) -> "WordTokenizer":
        """The files of a bundle.

        Raises:
            BundleError: naming the file and what is wrong with it.
        """
        vocabulary = WordVocabulary.read(bundle)
        source_size = model.source_vocab_size if model is not None else None
        target_size = model.target_vocab_size if model is not None else None
        vocabulary.check(source_size, target_size, SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE)
        return cls(vocabulary)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's words.

        Raises:
            UnknownWord: naming its place, where there is no token for such words.
        """
        return self._vocabulary.encode(text)

    def encode_target(self, text: str) -> list[int]:
        """Target ids of a text's words; raises as ``encode`` does."""
        return self._target.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Words between single spaces; special tokens and ids without an entry are left out."""
        return " ".join(self._texts[token_id] for token_id in ids if token_id in self._texts)

    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's."""
        return " ".join(tokens)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Target entries of ids; an id without an entry reads as its number in angle brackets."""
        return _entries(self._entries, ids)

    def source_tokens(self, ids: Sequence[int]) -> list[str]:
        """Source entries of ids, in the same way."""
        return _entries(self._vocabulary.source, ids)

    def id_of(self, token: str) -> int | None:
        """Id of a source entry."""
        return self._vocabulary.ids.get(token)

    def target_id_of(self, token: str) -> int | None:
        """Id of a target entry."""
        return self._target.ids.get(token)


def _entries(vocabulary: Sequence[str], ids: Sequence[int]) -> list[str]:
    return [vocabulary[token_id] if 0 <= token_id < len(vocabulary) else f"<{token_id}>" for token_id in ids]
