"""``tokenizer.json``, as the Hugging Face ``tokenizers`` library reads it."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from seqserve.bundle import TOKENIZER_FILE, BundleError, ModelDescription
from seqserve_server.tokenizer.base import Tokenizer


class HubTokenizer(Tokenizer):
    """One vocabulary for both sides."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    @classmethod
    def read(cls, bundle: Path, model: ModelDescription | None = None) -> "HubTokenizer":  # noqa: ARG003
        """The bundle's ``tokenizer.json``."""
        try:
            inner = tokenizers.Tokenizer.from_file(str(bundle / TOKENIZER_FILE))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise BundleError(f"{TOKENIZER_FILE}: cannot be read: {error}") from None
        # Left in the file by whoever trained with them: sources would be cut without a word.
        inner.no_truncation()
        inner.no_padding()
        return cls(inner)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens, of which some may be none of the target's."""
        decoder = self._inner.decoder
        text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""
        entries = (self._inner.id_to_token(token_id) for token_id in ids)
        return [entry if entry is not None else f"<{token_id}>" for entry, token_id in zip(entries, ids, strict=True)]

    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
        token_id: int | None = self._inner.token_to_id(token)
        return token_id
