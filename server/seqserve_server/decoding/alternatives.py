"""Several ways to go on at one position: different first tokens, each completed by a search of its own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import Advance, Continuation, Hypothesis, Search, SearchSettings


class _Branch:
    """A first token and what follows it. ``search`` is None where nothing may."""

    __slots__ = ("found", "live", "log_prob", "search", "token")

    def __init__(self, token: int, log_prob: float, search: Search | None) -> None:
        self.token, self.log_prob, self.search = token, log_prob, search
        self.live = 1 if search is not None else 0
        self.found: Hypothesis | None = None

    def whole(self, rest: Hypothesis) -> Hypothesis:
        """The answer that begins with the token."""
        return Hypothesis(
            [self.token, *rest.token_ids], [self.log_prob, *rest.log_probs], self.log_prob + rest.score, rest.ended
        )


class AlternativesSearch:
    """Implements :class:`seqserve_server.decoding.search.Search`: CTranslate2's ``return_alternatives``.

    Answers stay in the order of their first tokens' probabilities, whatever comes of them, so that the first one's
    tokens are stable as soon as its own search says so.

    Args:
        settings: Of the whole; ``alternatives`` is at least 1.
        behind: Makes the search behind a first token, from the settings that are left for it.
    """

    def __init__(self, settings: SearchSettings, behind: Callable[[SearchSettings], Search]) -> None:
        self._settings, self._behind = settings, behind
        self._branches: list[_Branch] = []

    @property
    def candidates(self) -> int:
        """The first tokens, and one more since the end is none of them; then what the searches behind need."""
        if not self._branches:
            return self._settings.alternatives + 1
        return max(branch.search.candidates for branch in self._branches if branch.live and branch.search is not None)

    @property
    def wants_logits(self) -> bool:
        """The best tokens say enough."""
        return False

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take one step in every search that is not over."""
        del logits  # not asked for
        if not self._branches:
            return self._fork(token_ids[0], log_probs[0])
        live: list[Continuation] = []
        stable: list[int] = []
        parent = 0
        for branch in self._branches:
            if not branch.live or branch.search is None:
                continue
            rows = slice(parent, parent + branch.live)
            advance = branch.search.advance(token_ids[rows], log_probs[rows])
            live += [Continuation(parent + each.parent, each.token) for each in advance.live]
            parent += branch.live
            branch.live = len(advance.live)
            if advance.found is not None:
                branch.found = branch.whole(advance.found[0])
            if branch is self._branches[0]:
                stable = advance.stable
        return self._advance(live, stable)

    def so_far(self) -> Hypothesis:
        """The first alternative, as far as it is."""
        if not self._branches:
            return Hypothesis([], [], 0.0, ended=False)
        first = self._branches[0]
        if first.found is not None or first.search is None:
            return first.found or first.whole(Hypothesis([], [], 0.0, ended=False))
        return first.whole(first.search.so_far())

    def _fork(self, token_ids: Sequence[int], log_probs: Sequence[float]) -> Advance:
        settings, end = self._settings, self._settings.end_id
        ranked = list(zip(token_ids, log_probs, strict=True))
        # As in CTranslate2 an end is no way to go on, unless nothing else is left to come.
        ranked = [each for each in ranked if each[0] != end] or ranked
        last = settings.max_new_tokens == 1
        if last and settings.forced_end:
            ranked = [(end, 0.0)]
        best = ranked[: settings.alternatives]
        for token, log_prob in best:
            if self._branches and math.exp(log_prob) < settings.least_probability:
                continue
            if token == end:
                branch = _Branch(token, log_prob, None)
                branch.found = Hypothesis([], [log_prob], log_prob, ended=not (last and settings.forced_end))
            elif last:
                branch = _Branch(token, log_prob, None)
                branch.found = Hypothesis([token], [log_prob], log_prob, ended=False)
            else:
                branch = _Branch(token, log_prob, self._behind(self._rest()))
            self._branches.append(branch)
        live = [Continuation(0, branch.token) for branch in self._branches if branch.live]
        first = self._branches[0]
        return self._advance(live, [] if first.token == end else [first.token])

    def _rest(self) -> SearchSettings:
        """What is left for the search behind a first token."""
        settings = self._settings
        return replace(
            settings, max_new_tokens=settings.max_new_tokens - 1, min_new_tokens=max(settings.min_new_tokens - 1, 0),
            num_hypotheses=1, alternatives=0, extra_length=0,
        )

    def _advance(self, live: list[Continuation], stable: list[int]) -> Advance:
        if live:
            return Advance(live, stable)
        return Advance([], stable, [branch.found for branch in self._branches if branch.found is not None])
