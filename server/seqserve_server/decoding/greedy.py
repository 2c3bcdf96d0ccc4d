"""Greedy search: the most probable token, the end token excepted while there are fewer than the least."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import Advance, Continuation, Hypothesis, SearchSettings, normalised

CANDIDATES = 2  # the best, and the one to take when the best is an end token that may not come yet
ON = 0  # the one live hypothesis


class GreedySearch:
    """Implements :class:`seqserve_server.decoding.search.Search` with one hypothesis."""

    __slots__ = ("_log_probs", "_settings", "_token_ids")

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._token_ids: list[int] = []
        self._log_probs: list[float] = []

    @property
    def candidates(self) -> int:
        """Two."""
        return CANDIDATES

    @property
    def wants_logits(self) -> bool:
        """The best tokens say enough."""
        return False

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take the best allowed token."""
        del logits  # not asked for
        settings, generated = self._settings, len(self._log_probs)
        token, log_prob = token_ids[0][0], log_probs[0][0]
        last = generated + 1 >= settings.max_new_tokens
        if settings.forced_end and last:  # there is no choice, so the log-probability is 0 (as in transformers)
            token, log_prob = settings.end_id, 0.0
        elif token == settings.end_id and generated < settings.min_new_tokens and len(token_ids[0]) > 1:
            token, log_prob = token_ids[0][1], log_probs[0][1]
        self._log_probs.append(log_prob)
        if token == settings.end_id:
            return Advance([], [], [self._hypothesis(ended=not (settings.forced_end and last))])
        self._token_ids.append(token)
        if last:
            return Advance([], [token], [self._hypothesis(ended=False)])
        return Advance([Continuation(ON, token)], [token])

    def so_far(self) -> Hypothesis:
        """What there is."""
        return self._hypothesis(ended=False)

    def _hypothesis(self, *, ended: bool) -> Hypothesis:
        score = normalised(sum(self._log_probs), len(self._log_probs), self._settings)
        return Hypothesis(self._token_ids, self._log_probs, score, ended)
