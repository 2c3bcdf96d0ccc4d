"""Which request runs where: iteration-level continuous batching over rows and places. Values in, values out.

Running rows always are rows 0 .. n-1, and likewise their sources' places: when requests leave, arriving ones take what
they held first, and others are moved from the end into what is left. No clock, thread, transport or runtime is known
here.

Pairs to score wait in a queue of their own (:mod:`.score_queue`). They need no rows; between two steps there is either
an encoder batch or a turn of pairs, so that running rows wait for one budget of tokens, and not for two.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.capacity import SchedulerLimits
from seqserve_server.deadlines import Deadlines
from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import Hypothesis
from seqserve_server.engine import Changes, Layout, PlaceMove, PlaceRelease, RowMove, RowRelease, Source
from seqserve_server.placement import Place, Space, widths_for
from seqserve_server.plan import UNHELD, Applied, Plan, Running, group_by_length, layout_of, need_now, need_of
from seqserve_server.request import Event, Failed, Finished, FinishReason, Request, ScoreRequest, Times, TokensChosen
from seqserve_server.request_queue import RequestQueue
from seqserve_server.score_queue import NOT_FINITE, ScoreQueue
from seqserve_server.waiting import Fairness

NOTHING = Hypothesis([], [], 0.0, ended=False)


class Scheduler:
    """Owns the waiting queue, the rows and the places. ``plan`` and ``apply`` alternate.

    Args:
        fairness: In which order requests, and pairs, are taken from their queues.
        needed: See ``RequestQueue``.

    Attributes:
        pairs: Those that wait to be scored.
    """

    def __init__(
        self, limits: SchedulerLimits, fairness: Fairness | None = None,
        needed: Callable[[Request], float] | None = None,
    ) -> None:
        self._limits = limits
        self._waiting = RequestQueue(fairness, needed)
        self._running: dict[int, Running] = {}
        self._promised = 0  # rows that running requests may come to hold
        self._rows: Space[tuple[Running, int]] = Space()
        self._places: list[Space[tuple[Running, int]]] = [Space() for _ in limits.widths]
        self._dirty_rows: dict[int, int] = {}
        self._dirty_places: dict[Place, int] = {}
        self._layout: Layout | None = None
        self._deadlines = Deadlines(self._is_open)
        self.pairs = ScoreQueue(limits.encode_tokens, fairness)
        self._pairs_first = False

    def __repr__(self) -> str:
        return f"Scheduler(waiting={self.waiting}, running={self.running}, rows={len(self._rows)})"

    @property
    def waiting(self) -> int:
        """Requests that wait for rows, and pairs that wait to be scored."""
        return len(self._waiting) + len(self.pairs)

    @property
    def running(self) -> int:
        """Requests that hold rows."""
        return len(self._running)

    @property
    def empty(self) -> bool:
        """Whether nothing waits or runs."""
        return not (self._waiting or self._running or self.pairs)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs or is left to clean up."""
        return self.empty and not (self._dirty_rows or self._dirty_places)

    def submit(self, request: Request | ScoreRequest) -> None:
        """Queue a request or a pair that admission let in. Its id must be new."""
        if isinstance(request, ScoreRequest):
            self.pairs.add(request)
        else:
            self._waiting.add(request)
        self._deadlines.note(request.id, request.deadline, self.waiting + self.running)

    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        """End a request early; its rows are free at the next plan. Unknown or ended ids are ignored."""
        if request_id in self._running:
            running = self._running[request_id]
            return [self._finish(running, reason, [running.search.so_far()], now)]
        if not self._is_open(request_id):
            return []
        ended = (self.pairs if request_id in self.pairs else self._waiting).remove(request_id)
        return [Finished(request_id, reason, [NOTHING], Times(ended.arrival, ended=now))]

    def _is_open(self, request_id: int) -> bool:
        return request_id in self._waiting or request_id in self._running or request_id in self.pairs

    def plan(self, now: float) -> Plan:
        """Expire, free, admit and compact; say what the engine has to do next."""
        ended = self._expire(now)
        release_rows = [RowRelease(row, length) for row, length in self._dirty_rows.items()]
        release_places = [PlaceRelease(place, length) for place, length in self._dirty_places.items()]
        self._dirty_rows.clear()
        self._dirty_places.clear()
        admitted = [] if self.pairs and self._pairs_first else self._admit(now, ended)
        self._pairs_first = bool(admitted)
        changes = Changes(release_rows, release_places, self._compact_rows(), self._compact_places())
        rows = list(self._rows)
        running = self._running.values()
        if self._layout is None:
            self._layout = layout_of(rows, self._limits.widths, [len(space) for space in self._places])
        return Plan(
            ended=ended,
            changes=changes,
            need=need_now(running, len(rows), [len(space) for space in self._places]),
            copies=[copy for one in running if one.copies for copy in one.take_copies()],
            encode=group_by_length([Source(one.rows[0], tuple(one.places), one.request.source) for one in admitted]),
            tokens=[one.tokens[lane] for one, lane in rows],
            positions=[one.position for one, _ in rows],
            candidates=max([one.search.candidates for one in running], default=0),
            logits=any([one.search.wants_logits for one in running]),  # noqa: C419 - a list is faster than asking on
            layout=self._layout,
            score=[] if admitted else self.pairs.turn(),
        )

    def encoded(self, sources: Sequence[Source], now: float) -> None:
        """Note when an encoder batch was done."""
        for request_id in self.requests_of(sources):
            self._running[request_id].times.encoded = now

    def apply(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: NDArray[np.float32] | None, now: float,
    ) -> Applied:
        """Advance every request by what the step found.

        Args:
            token_ids, log_probs: The best next tokens of rows 0 .. n-1, best first.
            logits: [rows, vocabulary], where the plan asked for them.
        """
        applied = Applied([])
        events = applied.events
        finite = all(map(math.isfinite, [best[0] for best in log_probs]))  # all at once: nearly always
        for running in list(self._running.values()):
            request, held = running.request, running.rows
            rows = held if len(held) == 1 else [held[lane] for lane in running.lanes]
            found = [log_probs[row] for row in rows]
            if not (finite or all(math.isfinite(best[0]) for best in found)):
                self._leave(running)
                events.append(Failed(request.id, NOT_FINITE))
                continue
            if running.position + 1 < len(request.prompt):
                running.position += 1
                running.tokens[running.lanes[0]] = request.prompt[running.position]
                continue
            applied.tokens += 1
            if running.times.first_token is None:
                running.times.first_token = now
                applied.joined += 1
            search = running.search
            whole = [logits[row] for row in rows] if logits is not None and search.wants_logits else []
            advance = search.advance([token_ids[row] for row in rows], found, whole)
            if advance.stable and request.stream:
                events.append(TokensChosen(request.id, advance.stable))
            if advance.found is not None:
                events.append(self._finish(running, FinishReason.of(advance.found[0]), advance.found, now))
                continue
            running.assign_lanes(advance.live)
            if len(held) > 1:
                self._hold_lanes(running)
            running.position += 1
        return applied

    def fail(self, request_ids: Sequence[int], message: str) -> list[Event]:
        """End running requests because the engine could not go on with them."""
        failed = [request_id for request_id in request_ids if request_id in self._running]
        for request_id in failed:
            self._leave(self._running[request_id])
        return [Failed(request_id, message) for request_id in failed]

    def fail_all(self, message: str) -> list[Event]:
        """End everything, waiting requests too: the engine is gone."""
        ids = [*self._running, *self._waiting.ids(), *self.pairs.clear()]
        for running in list(self._running.values()):
            self._leave(running)
        self._waiting.clear()
        return [Failed(request_id, message, engine_stopped=True) for request_id in ids]

    def requests_of(self, sources: Sequence[Source]) -> list[int]:
        """Ids of the requests whose sources these are, of those that still run."""
        places = {source.places[0] for source in sources}
        return [request_id for request_id, one in self._running.items() if one.places[0] in places]

    def rows_of(self, request_id: int) -> list[int]:
        """Rows that a running request holds."""
        return [row for row in self._running[request_id].rows if row != UNHELD]

    def running_ids(self) -> list[int]:
        """Ids of the requests that hold rows."""
        return list(self._running)

    def _expire(self, now: float) -> list[Event]:
        passed = self._deadlines.passed(now)
        return [event for number in passed for event in self.cancel(number, now, FinishReason.DEADLINE)]

    def _admit(self, now: float, ended: list[Event]) -> list[Running]:
        """Take requests from the queue while rows, memory and encoder work allow. Nobody passes one that waits."""
        first = self._waiting.first()
        if first is None or self._promised + first.search.rows > self._limits.max_rows:
            return []  # as mostly where there is a queue
        reserved = need_of([one.request for one in self._running.values()], self._limits.widths)
        tokens, admitted = 0, list[Running]()
        while (request := self._waiting.first()) is not None:
            if self._waiting.hopeless(now):
                ended += self.cancel(request.id, now, FinishReason.DEADLINE)
                continue
            tokens += len(request.source)
            if admitted and tokens > self._limits.encode_tokens:
                break
            need = reserved.beside(need_of([request], self._limits.widths))
            if need.rows > self._limits.max_rows or not self._limits.fits(need):
                break
            reserved = need
            admitted.append(self._start(self._waiting.start(), now))
        return admitted

    def _start(self, request: Request, now: float) -> Running:
        running = Running.of(request, search_of(request.search, request.prompt), now)
        for number, width in enumerate(widths_for(request.search.rows, self._limits.widths)):
            running.places.append(Place(width, self._places[width].take((running, number))))
        running.rows[0] = self._rows.take((running, 0))
        self._running[request.id] = running
        self._promised += request.search.rows
        self._layout = None
        return running

    def _hold_lanes(self, running: Running) -> None:
        """Rows for lanes that have a hypothesis now, and none for those that have no more."""
        lanes = set(running.lanes)
        for lane, row in enumerate(running.rows):
            if row != UNHELD and lane not in lanes:
                self._free_row(running, lane)
        for lane in running.lanes:
            if running.rows[lane] == UNHELD:
                running.rows[lane] = self._rows.take((running, lane))
                self._layout = None

    def _compact_rows(self) -> list[RowMove]:
        moves: list[RowMove] = []
        for (running, lane), shift in self._rows.compact():
            running.rows[lane] = shift.destination
            self._layout = None
            # A lane that waits for all of its contents has nothing yet to be carried.
            if not any(to == lane and start == 0 for _, to, start in running.copies):
                moves.append(RowMove(shift.source, shift.destination, running.position))
        return moves

    def _compact_places(self) -> list[PlaceMove]:
        moves: list[PlaceMove] = []
        for width, space in enumerate(self._places):
            for (running, number), shift in space.compact():
                old, new = Place(width, shift.source), Place(width, shift.destination)
                running.places[number] = new
                self._layout = None
                moves.append(PlaceMove(old, new, len(running.request.source)))
        return moves

    def _free_row(self, running: Running, lane: int) -> None:
        row = running.rows[lane]
        running.rows[lane] = UNHELD
        self._rows.free(row)
        # One position more than counted: a step that failed half-way may have written it.
        self._dirty_rows[row] = max(self._dirty_rows.get(row, 0), running.position + 1)
        self._layout = None

    def _leave(self, running: Running) -> None:
        del self._running[running.request.id]
        self._promised -= running.request.search.rows
        self._waiting.settle(running.request, max(0, running.position + 1 - len(running.request.prompt)))
        for lane in running.held:
            self._free_row(running, lane)
        for place in running.places:
            self._places[place.width].free(place.index)
            self._dirty_places[place] = len(running.request.source)

    def _finish(
        self, running: Running, reason: FinishReason, hypotheses: list[Hypothesis], now: float
    ) -> Finished:
        self._leave(running)
        running.times.ended = now
        return Finished(running.request.id, reason, hypotheses, running.times)
