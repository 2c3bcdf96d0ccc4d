"""A search that ends when the text of its answer holds a stop text."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import Advance, Hypothesis, Search
from seqserve_server.decoding.stop_texts import StoppingText, StopTexts


class StoppedSearch:
    """Implements :class:`seqserve_server.decoding.search.Search` around one of a single hypothesis.

    The answer keeps all of its tokens, that which completed the text included; what the text loses is its reader's
    business (``StopTexts.answer``). Text that a tokenizer cannot be sure of yet, such as half a character, is looked at
    as soon as it can, at the latest when the search behind ends.
    """

    __slots__ = ("_inner", "_text")

    def __init__(self, inner: Search, stop: StopTexts) -> None:
        self._inner, self._text = inner, StoppingText(stop)

    @property
    def candidates(self) -> int:
        """What the search behind needs."""
        return self._inner.candidates

    @property
    def wants_logits(self) -> bool:
        """As the search behind."""
        return self._inner.wants_logits

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take a step of the search behind, and end it if its text has come to a stop."""
        advance = self._inner.advance(token_ids, log_probs, logits)
        self._text.push(advance.stable)
        if advance.found is not None:
            self._text.finish()
        if not self._text.stopped:
            return advance
        found = advance.found or [self._inner.so_far()]
        return Advance([], advance.stable, [replace(found[0], stopped=True)])

    def so_far(self) -> Hypothesis:
        """What the search behind has."""
        return self._inner.so_far()
