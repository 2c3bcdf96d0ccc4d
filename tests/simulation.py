"""A server in virtual time: arrivals and costs are given, every step is checked, and nothing waits for a real clock."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from arithmetic_engine import END, START, ArithmeticEngine
from hand_loop import WHOLE, HandLoop
from seqserve_server.capacity import SchedulerLimits
from seqserve_server.engine import Candidates, Source, StepInput
from seqserve_server.request import Failed, Finished, FinishReason
from seqserve_server.scheduler import Scheduler

ENCODE_SECONDS, ENCODE_TOKEN_SECONDS = 0.0002, 0.00002
STEP_SECONDS, STEP_ROW_SECONDS = 0.001, 0.00003
POISON, NAN = 29, 30  # outside of the vocabulary: nobody has them by chance
ENCODER = "the encoder failed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to come. ``patience`` is how long its caller waits, ``regret`` when it cancels, from its arrival on."""

    time: float
    source: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    patience: float | None = None
    regret: float | None = None
    stream: bool = False
    beams: int = 1
    num_hypotheses: int = 1
    prompt: tuple[int, ...] = (START,)


class TimedEngine(ArithmeticEngine):
    """Spends virtual seconds: a part per call, a part per token or row."""

    spent = 0.0

    def encode(self, sources: Sequence[Source]) -> None:
        self.spent += encode_seconds(sum(len(source.token_ids) for source in sources))
        super().encode(sources)

    def step(self, step: StepInput) -> Candidates:
        self.spent += step_seconds(len(step.tokens))
        return super().step(step)


def encode_seconds(tokens: int) -> float:
    """Cost of one encoder batch."""
    return ENCODE_SECONDS + ENCODE_TOKEN_SECONDS * tokens


def step_seconds(rows: int) -> float:
    """Cost of one decoder step."""
    return STEP_SECONDS + STEP_ROW_SECONDS * rows


class Simulation(HandLoop):
    """Plays arrivals against a scheduler and checks, after every iteration, what callers are promised.

    - Nobody waits behind more work than was there when it came (so nobody starves).
    - Rows that run wait for one encoder budget and one step at most between two tokens.
    - A deadline is never declared early, and nothing ends well later than one iteration after it.
    - No row stays empty while somebody waits who may have it.
    """

    def __init__(self, limits: SchedulerLimits, scheduler: type[Scheduler] = Scheduler) -> None:
        self.timed = TimedEngine(limits.cache_bytes)
        super().__init__(limits, self.timed, scheduler(limits))
        self.loop._clock = self._read_clock
        self.timed.poison, self.timed.nan = POISON, NAN
        self.iterations = self.broken_iterations = 0
        self.longest_iteration = 0.0
        self._work_ahead: dict[int, tuple[int, int]] = {}

    def _read_clock(self) -> float:
        self.now, self.timed.spent = self.now + self.timed.spent, 0.0
        return self.now

    def play(self, arrivals: Sequence[Arrival]) -> None:
        """Run until every arrival has its end."""
        coming = sorted(arrivals, key=lambda arrival: arrival.time, reverse=True)
        regrets: list[tuple[float, int]] = []
        while coming or not self.scheduler.idle:
            if self.scheduler.idle:
                self.now = max(self.now, coming[-1].time)
            while coming and coming[-1].time <= self.now:
                arrival = coming.pop()
                work = sum(self.requests[number].target_length + 1 for number in self.open)
                number = self.submit(
                    arrival.source, arrival.max_new_tokens, arrival.min_new_tokens, arrival=arrival.time,
                    deadline=None if arrival.patience is None else arrival.time + arrival.patience,
                    stream=arrival.stream, prompt=arrival.prompt, beams=arrival.beams,
                    num_hypotheses=arrival.num_hypotheses,
                )
                self._work_ahead[number] = (self.iterations - self.broken_iterations, work)
                if arrival.regret is not None:
                    regrets.append((arrival.time + arrival.regret, number))
            for time, number in [regret for regret in regrets if regret[0] <= self.now]:
                regrets.remove((time, number))
                self.cancel(number)
            self._iterate()
        assert set(self.ended) == set(self.requests), "a request never ended"
        assert self.engine.occupied == [], "state was left behind"
        self._check_deadlines()

    def _iterate(self) -> None:
        begun, stepped, encoded = self.now, len(self.engine.steps), len(self.engine.encoded)
        raised = self.loop._isolation.failures
        fresh = self.step()
        self._read_clock()
        self.iterations += 1
        self.longest_iteration = max(self.longest_iteration, self.now - begun)
        lengths = [len(source) for batch in self.engine.encoded[encoded:] for source in batch]
        if self.loop._isolation.failures > raised:  # some were encoded again, in parts
            again = {tuple(source) for batch in self.engine.encoded[encoded:] for source in batch}
            lengths = [len(source) for source in again]
        budget = max(self.limits.encode_tokens, *lengths) if len(lengths) == 1 else self.limits.encode_tokens
        assert sum(lengths) <= budget, "running rows wait for more than one encoder budget"
        failures = {event.request_id: event.message for event in fresh if isinstance(event, Failed)}
        broken = ENCODER in failures.values()
        self.broken_iterations += broken
        for number in self.scheduler.running_ids():
            if number in self._work_ahead:
                since, work = self._work_ahead.pop(number)
                waited = self.iterations - self.broken_iterations - since
                assert waited <= work + 1, "a request waited behind work that came after it"
        ended = [event.request_id for event in fresh if isinstance(event, Finished) and event.reason in WHOLE]
        held = [*self.scheduler.running_ids(), *ended, *failures]  # when it was planned
        # That all rows are in the step, and no others, is seen where they are compared with their hypotheses.
        steps = len(self.engine.steps) - stepped
        assert steps == (1 if held and not broken else 0), "requests were left out of a step"
        if self.scheduler.waiting:
            self._check_room(held, sum(lengths))

    def _check_room(self, stepping: list[int], encoded: int) -> None:
        first = min(self.open.keys() - set(self.scheduler.running_ids()))
        need = self.most_that_need([*stepping, first])
        allowed = need.rows <= self.limits.max_rows and self.limits.fits(need)
        budget_left = self.limits.encode_tokens - encoded
        if encoded == 0 or len(self.requests[first].source) <= budget_left:
            assert not allowed, "a row stayed empty while a request waited"

    def _check_deadlines(self) -> None:
        for number, event in self.ended.items():
            deadline = self.requests[number].deadline
            if deadline is not None and isinstance(event, Finished) and event.reason is not FinishReason.CANCELLED:
                assert event.times.ended is not None
                late = event.times.ended - deadline
                assert late <= self.longest_iteration, "a request ended later than one iteration after its deadline"


def adversarial(seed: int, count: int, most_beams: int = 12) -> list[Arrival]:
    """A mix that schedulers dislike: bursts, giants among dwarfs, hopeless deadlines, storms of regret, bad sources."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    now = 0.0
    while len(arrivals) < count:
        now += rng.expovariate(60)
        burst = rng.choice((1, 1, 1, 2, 5, 60))
        patience = rng.choice((None, None, None, 0.0, 0.002, 0.1, 0.4))
        regret = rng.choice((None, None, None, None, 0.0, 0.02, 0.1))
        for _ in range(burst):
            length = rng.choice((1, 1, 2, 3, 8, 20, 100))
            bad = (rng.choice((POISON, NAN)),) if rng.random() < 0.08 else ()
            source = (*bad, *(rng.randrange(3, 29) for _ in range(length - 1)), END)
            most = rng.choice((1, 2, 5, 20, 60))
            beams = min(rng.choice((1, 1, 1, 2, 3, 4, 5, 8, 12)), most_beams)
            prompt = (START, *(rng.randrange(2, 29) for _ in range(rng.choice((0, 0, 0, 1, 3)))))
            arrivals.append(Arrival(
                now, source, most, rng.randrange(most + 1), patience, regret, rng.random() < 0.5, beams,
                rng.randint(1, beams), prompt,
            ))
    return arrivals
