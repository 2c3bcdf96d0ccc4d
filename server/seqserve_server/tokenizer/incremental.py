"""The way back from ids to text while they are still being chosen."""

import re
from collections.abc import Sequence

from seqserve_server.tokenizer.base import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class IncrementalDetokenizer:
    """Text of a growing sequence, in pieces that are never taken back and that end with whole characters.

    Decodes from the piece before the new one and emits what is longer than without: decoders look at neighbours (a
    word's first token loses its space only at the very start), so tokens cannot be decoded alone. What is held back:

    ========================  =======================================================================
    tokens without any text   until text follows: as context they would look like the start
    an incomplete character   until it is complete
    a run of byte tokens      until it ends: one bad byte makes the decoder give up the whole run
    ========================  =======================================================================
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._emitted = 0
        self._sent = 0
        self._in_bytes = False

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; return the new text, empty while the last character is incomplete."""
        self._ids.extend(ids)
        for token_id, token in zip(ids, self._tokenizer.tokens(ids), strict=True):
            if _BYTE_PIECE.fullmatch(token):
                self._in_bytes = True
            elif self._in_bytes and self._tokenizer.decode([token_id]):  # a token without text does not end the run
                self._in_bytes = False
        if self._in_bytes:
            return ""
        known = self._tokenizer.decode(self._ids[self._context : self._emitted])
        text = self._tokenizer.decode(self._ids[self._context :])
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        new = text[len(known) :]
        self._context, self._emitted = self._emitted, len(self._ids)
        self._sent += len(new)
        return new

    def rest(self) -> str:
        """What is still owed at the end."""
        return self.finish(self._tokenizer.decode(self._ids))

    def finish(self, whole: str) -> str:
        """What is still owed of the unary text, at the end: the characters that were held back."""
        return whole[self._sent :]
