"""Text to ids and back, and the incremental way back that a stream needs."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HubTokenizer

from seqserve.bundle import TOKENIZER_FILE, BundleError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# An id that is not text at all must not hold a stream back for ever; no character has more than 4 bytes.
MAX_PENDING = 8


class Tokenizer:
    """A bundle's ``tokenizer.json``. Content only: special tokens are the model description's business."""

    def __init__(self, inner: HubTokenizer) -> None:
        self._inner = inner

    @classmethod
    def open(cls, bundle: Path) -> "Tokenizer | None":
        """The bundle's tokenizer, or None where it has none."""
        path = bundle / TOKENIZER_FILE
        if not path.exists():
            return None
        try:
            return cls(HubTokenizer.from_file(str(path)))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise BundleError(f"{TOKENIZER_FILE}: cannot be read: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids; an id without an entry reads as its number in angle brackets."""
        entries = (self._inner.id_to_token(token_id) for token_id in ids)
        return [entry if entry is not None else f"<{token_id}>" for entry, token_id in zip(entries, ids, strict=True)]

    def id_of(self, token: str) -> int | None:
        """Id of a vocabulary entry."""
        token_id: int | None = self._inner.token_to_id(token)
        return token_id


class IncrementalDetokenizer:
    """Text of a growing sequence, in pieces that are never taken back and that end with whole characters.

    Decodes from a few tokens before the new ones and emits what is longer than without them: decoders look at
    neighbours (a word's first piece loses its space only at the very start), so single tokens cannot be decoded alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._emitted = 0
        self._sent = 0

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; return the new text, empty while the last character is incomplete."""
        self._ids.extend(ids)
        known = self._tokenizer.decode(self._ids[self._context : self._emitted])
        text = self._tokenizer.decode(self._ids[self._context :])
        pending = len(self._ids) - self._emitted
        if text.endswith(UNFINISHED) and pending <= MAX_PENDING:
            return ""
        new = text[len(known) :]
        # One emitted token stays as context: enough to know that the next piece does not stand at the start.
        self._context, self._emitted = max(len(self._ids) - 1, 0), len(self._ids)
        self._sent += len(new)
        return new

    def finish(self, whole: str) -> str:
        """What is still owed of the unary text, at the end: the characters that were held back."""
        return whole[self._sent :]
