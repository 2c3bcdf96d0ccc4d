"""Pairs that wait to be scored, and what becomes of them. Values in, values out; the scheduler gives the turns."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from seqserve_server.engine import SOURCE_MULTIPLE, Scored
from seqserve_server.request import Event, Failed, PairScored, ScoreRequest, Times
from seqserve_server.waiting import Fairness, WaitingQueue

NOT_FINITE = "the model produced a value that is not finite"


class ScoreQueue:
    """By priority, fair share and arrival. A pair is in it until its terminal event: no fault on the way can lose it.

    Args:
        budget: Most that the pairs of one turn cost (a larger pair goes alone), in tokens of an encoder batch: the
            bound on how long a turn can hold up running rows.
    """

    def __init__(self, budget: int, fairness: Fairness | None = None) -> None:
        self._budget = budget
        self._open: dict[int, ScoreRequest] = {}
        self._waiting: WaitingQueue[ScoreRequest] = WaitingQueue(fairness)
        self._suspects: deque[int] = deque()  # each to be tried alone, before all others; some have ended since

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    def add(self, request: ScoreRequest) -> None:
        """Queue a pair that admission let in. Its id must be new."""
        self._open[request.id] = request
        self._waiting.add(request)

    def remove(self, request_id: int) -> ScoreRequest:
        """Take out a pair whose end is known."""
        if request_id in self._waiting:
            self._waiting.remove(request_id)
        return self._open.pop(request_id)

    def clear(self) -> list[int]:
        """Take out all pairs; returns their ids."""
        ids = list(self._open)
        self._open.clear()
        self._waiting.clear()
        self._suspects.clear()
        return ids

    def turn(self) -> list[list[ScoreRequest]]:
        """The next pairs, as many as one turn takes, in passes of similar length. ``scored`` or ``failed`` follows."""
        while self._suspects:
            if (suspect := self._open.get(self._suspects.popleft())) is not None:
                return [[suspect]]
        chosen: list[ScoreRequest] = []
        cost = 0
        while (request := self._waiting.first()) is not None:
            cost += request.cost
            if chosen and cost > self._budget:
                break
            self._waiting.take(request.cost)
            chosen.append(request)
        return passes(chosen)

    def scored(self, batch: Sequence[ScoreRequest], found: Sequence[Scored], now: float) -> list[Event]:
        """End the pairs of a pass."""
        events: list[Event] = []
        for request, scored in list(zip(batch, found, strict=True)):  # nobody is taken out if they do not fit
            self.remove(request.id)
            if np.isfinite(scored.log_probs).all() and np.isfinite(scored.alignment).all():
                times = Times(request.arrival, ended=now)
                events.append(PairScored(request.id, scored.log_probs.tolist(), scored.alignment, times))
            else:
                events.append(Failed(request.id, NOT_FINITE))
        return events

    def failed(self, batch: Sequence[ScoreRequest]) -> list[Event]:
        """A pass raised: a pair alone has failed, of several each has a turn of its own, so that one alone does.

        Not at once, one after the other: running rows would wait for as many passes as there are pairs.
        """
        if len(batch) == 1:
            return [Failed(self.remove(batch[0].id).id, "the scorer failed")]
        self._suspects.extend(request.id for request in batch)
        return []


def passes(requests: Sequence[ScoreRequest]) -> list[list[ScoreRequest]]:
    """Pairs of similar padded lengths: attention pays for the longest, so neither side is over twice its shortest."""
    found: list[list[ScoreRequest]] = []
    lengths: tuple[list[int], list[int]] = ([], [])  # of sources and targets in the last pass
    for request in sorted(requests, key=lambda request: (len(request.pair.target), len(request.pair.source))):
        sizes = (_padded(request.pair.source), _padded(request.pair.target))
        if not found or any(
            max(size, *known) > 2 * min(size, *known) for size, known in zip(sizes, lengths, strict=True)
        ):
            found.append([])
            lengths = ([], [])
        for size, known in zip(sizes, lengths, strict=True):
            known.append(size)
        found[-1].append(request)
    return found


def _padded(token_ids: Sequence[int]) -> int:
    return -(-len(token_ids) // SOURCE_MULTIPLE)
