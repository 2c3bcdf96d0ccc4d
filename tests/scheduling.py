"""What tests of the scheduler share: requests by number, and steps whose outcome is made up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arithmetic_engine import END, START
from hand_loop import make_limits
from seqserve_server.decoding.search import Advance, Continuation, Hypothesis, SearchSettings
from seqserve_server.plan import Applied
from seqserve_server.request import Event, Request
from seqserve_server.scheduler import Scheduler

SHORT = [27, END]  # sums to 30 with the start: 1, the end token, comes first
ENDLESS = [26, END]  # sums to 29 with the start: repeats 0 until its limit


def make_scheduler(**limits: int) -> Scheduler:
    """A scheduler of the arithmetic engine's costs."""
    return Scheduler(make_limits(**limits))


def request(
    number: int, source: tuple[int, ...] = (5, END), max_new_tokens: int = 4, *, beams: int = 1,
    prompt: tuple[int, ...] = (START,), deadline: float | None = None, stream: bool = False,
) -> Request:
    """One with few tokens to come."""
    settings = SearchSettings(END, max_new_tokens, beam_size=beams)
    return Request(number, source, prompt, settings, deadline=deadline, stream=stream)


def applied(scheduler: Scheduler, now: float = 0.0, first: int = 9) -> Applied:
    """A step in which every row finds the same tokens, from ``first`` on."""
    rows = sum(len(running.held) for running in scheduler._running.values())
    count = 16
    tokens = [list(range(first, first + count))] * rows
    return scheduler.apply(tokens, [[-1.0 - place for place in range(count)]] * rows, None, now)


def advance(scheduler: Scheduler) -> list[Event]:
    """Events of such a step."""
    return applied(scheduler).events


def rows_of(scheduler: Scheduler, number: int) -> list[int]:
    """Rows of a running request, by lane; -1 for lanes without."""
    return scheduler._running[number].rows


class ScriptedSearch:
    """Continues just the hypotheses that it is told to, each with tokens of its own; then it is over.

    ``parents`` are the steps: the parent of every hypothesis that lives on.
    """

    def __init__(self, parents: Sequence[Sequence[int]], candidates: int = 16) -> None:
        self.candidates = candidates
        self._steps = list(parents)
        self._live: list[Hypothesis] = [Hypothesis([], [], 0.0, ended=False)]

    wants_logits = False

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take the step that is next."""
        if not self._steps:
            return Advance([], [], self._live)
        parents = self._steps.pop(0)
        ranks = [parents[:place].count(parent) for place, parent in enumerate(parents)]
        live = [Continuation(parent, token_ids[parent][rank]) for parent, rank in zip(parents, ranks, strict=True)]
        self._live = [
            Hypothesis(
                [*self._live[each.parent].token_ids, each.token],
                [*self._live[each.parent].log_probs, log_probs[each.parent][rank]], 0.0, ended=False,
            )
            for each, rank in zip(live, ranks, strict=True)
        ]
        return Advance(live, [])

    def so_far(self) -> Hypothesis:
        """The first."""
        return self._live[0]
