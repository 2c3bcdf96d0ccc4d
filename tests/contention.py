"""Many callers against one server in virtual time: its gate, scheduler, loop and cost model, and a timed engine."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from arithmetic_engine import END, START
from hand_loop import WHOLE, make_limits
from seqserve_server.cost_model import CostModel
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.errors import DeadlinePassed, QueueFull
from seqserve_server.gate import Entered, Gate, GateLimits
from seqserve_server.loop import Loop, StepFacts
from seqserve_server.request import Event, Finished, FinishReason, Request, TokensChosen
from seqserve_server.scheduler import Scheduler
from seqserve_server.waiting import Fairness
from simulation import TimedEngine

ROWS = 16
REPEATS_NOTHING = (26, END)  # an answer goes on until its limit


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends requests at random times, so many per second in the mean, until the end."""

    tenant: str
    rate: float
    tokens: tuple[int, int] = (4, 24)
    patience: float | None = None
    priority: int = 0


class Contention:
    """One server. ``door`` and ``dropping`` say whether it looks at deadlines before requests wait, and start.

    Attributes:
        refused: Of each error's reason, how many.
        hopeless: Requests that were refused for their deadline.
        in_time, late: Requests by what became of them; the late were let in, and were for nothing.
        started_late: Requests that had rows at or after their deadline.
        served: Tokens generated, by tenant.
        waits: Seconds in the queue, by tenant.
        forced: Arrivals that have no deadline and so are let in, with the time at which they ended.
    """

    def __init__(
        self, fairness: Fairness | None = None, *, waiting: int = 2048, door: bool = True, dropping: bool = True,
        scheduler: type[Scheduler] = Scheduler, forced: Sequence[float] = (),
    ) -> None:
        self.costs = CostModel()
        weights = {} if fairness is None else fairness.weights
        self.gate = Gate(GateLimits(waiting, ROWS), self.costs if door else None, weights)
        limits = make_limits(max_rows=ROWS)
        needed: Callable[[Request], float] | None = None
        if dropping:
            needed = lambda request: self.costs.needed_seconds(request, ROWS)  # noqa: E731
        self.engine = TimedEngine(limits.cache_bytes)
        self.scheduler = scheduler(limits, fairness, needed)
        self.loop = Loop(self.engine, self.scheduler, self._publish, self._observe, clock=self._clock)
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.refused: Counter[str] = Counter()
        self.in_time = self.late = self.started_late = 0
        self.served: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self.hopeless: list[Request] = []
        self.forced = dict.fromkeys(forced, 0.0)
        self._entered: dict[int, Entered] = {}
        self._count = 0

    def _clock(self) -> float:
        self.now, self.engine.spent = self.now + self.engine.spent, 0.0
        return self.now

    def _observe(self, facts: StepFacts, events: Sequence[Event]) -> None:
        self.costs.observe(facts, events)

    def offer(self, request: Request) -> int | None:
        """A request at the door; its id if it is let in."""
        if request.arrival in self.forced:
            request = replace(request, deadline=None)
        try:
            (entered,) = self.gate.enter([request], 0, request.arrival)
        except (DeadlinePassed, QueueFull) as error:
            self.refused[error.reason] += 1
            if isinstance(error, DeadlinePassed):
                self.hopeless.append(request)
            return None
        self._count += 1
        self.requests[self._count], self._entered[self._count] = request, entered
        self.loop.submit([replace(request, id=self._count)])
        return self._count

    def play(self, callers: Sequence[Caller], seconds: float, seed: int = 0) -> None:
        """Let callers come for so long; what is still open then is left."""
        coming = arrivals(callers, seconds, seed)
        following = next(coming, None)
        while self.now < seconds:
            while following is not None and following.arrival <= self.now:
                self.offer(following)
                following = next(coming, None)
            if self.scheduler.idle and not self.gate.inside.requests:
                if following is None:
                    return
                self.now = max(self.now, following.arrival)
                continue
            self.loop.step()
            self._clock()
            self.loop.report()

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TokensChosen):
                continue
            self.gate.leave(self._entered.pop(event.request_id))
            assert isinstance(event, Finished)
            request, times = self.requests.pop(event.request_id), event.times
            assert times.ended is not None
            if times.admitted is not None:
                self.waits.setdefault(request.tenant, []).append(times.admitted - times.arrival)
                self.started_late += request.deadline is not None and times.admitted >= request.deadline
            if request.arrival in self.forced:
                self.forced[request.arrival] = times.ended
            whole = event.reason in WHOLE
            assert whole or event.reason is FinishReason.DEADLINE
            if whole and (request.deadline is None or times.ended <= request.deadline):
                self.in_time += 1
                self.served[request.tenant] += len(event.log_probs)
            else:
                self.late += 1


def arrivals(callers: Sequence[Caller], seconds: float, seed: int) -> Iterator[Request]:
    """Of all callers, in order of time."""
    rng = random.Random(seed)
    coming = [(rng.expovariate(caller.rate), place) for place, caller in enumerate(callers)]
    heapq.heapify(coming)
    while coming and coming[0][0] < seconds:
        time, place = coming[0]
        caller = callers[place]
        settings = SearchSettings(END, rng.randint(*caller.tokens))
        deadline = None if caller.patience is None else time + caller.patience
        yield Request(
            0, REPEATS_NOTHING, (START,), settings, time, deadline, tenant=caller.tenant, priority=caller.priority
        )
        heapq.heapreplace(coming, (time + rng.expovariate(caller.rate), place))
