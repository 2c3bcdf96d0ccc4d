"""The loop without its thread: tests turn the crank, own the clock, and see every event."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from arithmetic_engine import COST, END, START, WIDTHS, ArithmeticEngine
from pair_rules import check_pair_end, check_turn
from pencil import Course, course
from seqserve_server import scheduler as core
from seqserve_server.capacity import Capacity, SchedulerLimits
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import Pair, StepInput
from seqserve_server.isolation import Isolation
from seqserve_server.loop import Loop, StepFacts
from seqserve_server.placement import Place
from seqserve_server.plan import UNHELD
from seqserve_server.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    ScoreRequest,
    Terminal,
    TokensChosen,
)

WHOLE = (FinishReason.EOS, FinishReason.LENGTH)


async def stepped(loop: Loop, count: int) -> None:
    """Steps on this thread, before and after each of which every caller has its turn."""
    for _ in range(count):
        await asyncio.sleep(0)
        loop.step()
        for _ in range(4):
            await asyncio.sleep(0)


def make_limits(max_rows: int = 64, encode_tokens: int = 512, cache_bytes: int = 1 << 20) -> SchedulerLimits:
    """Limits around the arithmetic engine's costs."""
    return SchedulerLimits(max_rows, encode_tokens, cache_bytes, COST, WIDTHS)


class HandLoop:
    """A loop around the arithmetic engine, and the rules that hold after every one of its steps.

    Attributes:
        now: The clock; tests set it.
        requests: Everything to decode that was submitted, in order.
        pairs: Everything to score, likewise.
        events: Everything published, in order.
        facts: What was observed, one per step that did something.
        open: Ids of requests that have not ended, in order.
        ended: Terminal event of each request.
    """

    def __init__(
        self, limits: SchedulerLimits | None = None, engine: ArithmeticEngine | None = None,
        scheduler: core.Scheduler | None = None,
    ) -> None:
        self.limits = limits or make_limits()
        self.engine = engine or ArithmeticEngine(self.limits.cache_bytes)
        self.engine.watch = self._check_rows
        self.scheduler = scheduler or core.Scheduler(self.limits)
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.pairs: dict[int, ScoreRequest] = {}
        self.events: list[Event] = []
        self.facts: list[StepFacts] = []
        self.open: dict[int, None] = {}
        self.ended: dict[int, Terminal] = {}
        self.cancelled: set[int] = set()
        self.loop = Loop(
            self.engine, self.scheduler, self.events.extend, lambda facts, _: self.facts.append(facts),
            clock=lambda: self.now,
        )
        # However many bad requests a test sends one after the other: the engine is well.
        self.loop._isolation = Isolation(self.engine, most_alone=1 << 30)
        self._streamed: dict[int, list[int]] = {}
        self._fed: dict[int, int] = {}
        self._checked = 0
        self._seen = (0, 0)

    def submit(
        self, source: Sequence[int], max_new_tokens: int = 40, min_new_tokens: int = 0,
        deadline: float | None = None, stream: bool = False, arrival: float | None = None,
        prompt: tuple[int, ...] = (START,), beams: int = 1, **search: Any,
    ) -> int:
        """Submit one request; returns its id. ``search`` are further fields of its settings."""
        arrival = self.now if arrival is None else arrival
        settings = SearchSettings(END, max_new_tokens, min_new_tokens, beam_size=beams, **search)
        number = len(self.requests) + len(self.pairs)
        request = Request(number, tuple(source), prompt, settings, arrival, deadline, stream)
        self.requests[request.id] = request
        self.open[request.id] = None
        self.loop.submit([request])
        return request.id

    def submit_pair(
        self, source: Sequence[int], scored: Sequence[int], deadline: float | None = None, arrival: float | None = None,
        prompt: tuple[int, ...] = (START,),
    ) -> int:
        """Submit one pair; returns its id."""
        arrival = self.now if arrival is None else arrival
        pair = Pair(tuple(source), (*prompt, *scored), len(prompt))
        request = ScoreRequest(len(self.requests) + len(self.pairs), pair, arrival, deadline)
        self.pairs[request.id] = request
        self.open[request.id] = None
        self.loop.submit([request])
        return request.id

    def cancel(self, request_id: int) -> None:
        """Cancel one request."""
        self.cancelled.add(request_id)
        self.loop.cancel([request_id])

    def step(self) -> list[Event]:
        """One iteration, after which every rule is checked; returns its events."""
        observed, self._seen = len(self.facts), (len(self.engine.encoded), len(self.engine.passes))
        self.loop.step()
        self.loop.report()
        fresh = self.events[self._checked:]
        self._checked = len(self.events)
        self.check(fresh, self.facts[observed] if len(self.facts) > observed else None)
        return fresh

    def run(self, most: int = 100_000) -> None:
        """Step until nothing is left."""
        for _ in range(most):
            self.step()
            if self.scheduler.idle:
                assert self.engine.occupied == []
                return
        raise AssertionError(f"{self.scheduler} is still busy after {most} steps")

    def finished(self, request_id: int) -> Finished:
        """The terminal event of a request that did not fail."""
        event = self.ended[request_id]
        assert isinstance(event, Finished), event
        return event

    def rows_of(self, request_id: int) -> list[int]:
        """Rows that a running request holds."""
        return [row for row in self.scheduler._running[request_id].rows if row != UNHELD]

    def places_of(self, request_id: int) -> list[Place]:
        """Places that a running request holds."""
        return self.scheduler._running[request_id].places

    def course_of(self, request: Request) -> Course:
        """What its search does when nobody disturbs it."""
        return course(request.source, request.prompt, request.search, vars(core)["search_of"])

    def check(self, fresh: Sequence[Event], facts: StepFacts | None) -> None:
        """The rules. A scheduler with a fault breaks one of them, or the engine notes a misuse."""
        assert not self.engine.misuses, self.engine.misuses[0]
        for event in fresh:
            assert event.request_id not in self.ended, f"{event} after the terminal event"
            if isinstance(event, TokensChosen):
                assert self.requests[event.request_id].stream, "tokens for a caller that does not stream"
                assert event.token_ids, "an event without news"
                self._streamed.setdefault(event.request_id, []).extend(event.token_ids)
            else:
                self.ended[event.request_id] = event
                del self.open[event.request_id]
                if event.request_id in self.pairs:
                    check_pair_end(self, self.pairs[event.request_id], event)
                else:
                    self._check_end(self.requests[event.request_id], event)
        for number in self.scheduler.running_ids():
            self._fed[number] = self.scheduler._running[number].position
            self._check_stream(self.requests[number])
        self._check_counts(fresh, facts)
        self._check_memory()
        encoded, passes = self._seen
        check_turn(self, fresh, self.engine.encoded[encoded:], self.engine.passes[passes:])

    def _check_rows(self, step: StepInput) -> None:
        """In a step: rows hold just the hypotheses that the searches go on with, and a prompt has one row."""
        wanted: dict[int, list[int]] = {}
        for number in self.scheduler.running_ids():
            running, request = self.scheduler._running[number], self.requests[number]
            generated = max(0, running.position + 1 - len(request.prompt))
            live = self.course_of(request).live[generated]
            if len(live) != len(running.lanes):
                self.engine.misuses.append(f"rows hold {len(running.lanes)} hypotheses, the search has {len(live)}")
                return
            for lane, tokens in zip(running.lanes, live, strict=True):
                wanted[running.rows[lane]] = [*request.prompt, *tokens][: running.position + 1]
        held = {row: self.engine.fed(row) for row in range(len(step.tokens))}
        if held != wanted:
            self.engine.misuses.append(f"rows hold {held}, hypotheses are {wanted}")

    def _generated(self, request: Request) -> int:
        return max(0, self._fed.get(request.id, 0) + 1 - len(request.prompt))

    def _check_stream(self, request: Request) -> None:
        told, answers = self._streamed.get(request.id, []), self.course_of(request)
        count = answers.told[self._generated(request)] if request.stream else 0
        assert told == answers.found[0].token_ids[:count], "the stream is not what is certain by now"

    def _check_end(self, request: Request, event: Terminal) -> None:
        expected, streamed = self.course_of(request), self._streamed.get(request.id, [])
        if isinstance(event, Failed):
            assert streamed == expected.found[0].token_ids[: len(streamed)]
            return
        assert isinstance(event, Finished), event
        if event.reason in WHOLE:
            whole = (event.hypotheses, event.reason)
            assert whole == (expected.found, expected.reason), f"not the pencil's answer to {request}"
            assert not request.stream or streamed == event.token_ids, "the stream is not the answer"
        else:
            so_far = expected.so_far[self._generated(request)]
            assert event.hypotheses == [so_far], f"not what there was by then of {request}"
            assert streamed == event.token_ids[: len(streamed)], "the stream is not the answer"
        if event.reason is FinishReason.CANCELLED:
            assert request.id in self.cancelled
        if event.reason is FinishReason.DEADLINE:
            assert request.deadline is not None
            assert event.times.ended is not None
            assert request.deadline <= event.times.ended, "the deadline was declared too early"
        times = event.times
        stages = [times.arrival, times.admitted, times.encoded, times.first_token, times.ended]
        known = [stage for stage in stages if stage is not None]
        assert known == sorted(known), "stages out of order"

    def _check_counts(self, fresh: Sequence[Event], facts: StepFacts | None) -> None:
        running = self.scheduler.running_ids()
        waiting = self.open.keys() - set(running)
        assert self.scheduler.running == len(running)
        assert self.scheduler.waiting == len(waiting), "waiting + running + ended is not what was submitted"
        assert not set(running) & set(self.ended), "a row belongs to a request that has ended"
        first = min(waiting - self.pairs.keys(), default=1 << 62)
        assert max(running, default=-1) < first, "a request was overtaken in the queue"
        rows = Counter(row for number in running for row in self.rows_of(number))
        places = Counter(place for number in running for place in self.places_of(number))
        assert max([*rows.values(), *places.values()], default=1) == 1, "two share a row or a place"
        for number in running:
            beams = self.requests[number].search.beam_size
            assert 1 <= len(self.rows_of(number)) <= beams
            assert [WIDTHS[place.width] for place in self.places_of(number)] == widths_of(beams)
        if facts is not None and facts.rows:
            whole = sum(isinstance(event, Finished) and event.reason in WHOLE for event in fresh)
            prompting = sum(self._fed[number] < len(self.requests[number].prompt) for number in running)
            assert facts.tokens == len(running) - prompting + whole, "tokens emitted are not the tokens counted"

    def _check_memory(self) -> None:
        if running := self.scheduler.running_ids():
            most = self.most_that_need(running)
            assert most.rows <= self.limits.max_rows, "more rows than allowed"
            assert self.limits.fits(most), f"{most} could outgrow the budget"
        assert self.engine.state_bytes <= self.limits.cache_bytes

    def most_that_need(self, numbers: Sequence[int]) -> Capacity:
        """What requests could need before they end, if they run together."""
        those = [self.requests[number] for number in numbers]
        widths = Counter(width for one in those for width in widths_of(one.search.beam_size))
        return Capacity(
            sum(one.search.beam_size for one in those), max(one.target_length for one in those),
            max(len(one.source) for one in those), tuple(widths[width] for width in WIDTHS),
        )


def widths_of(beams: int) -> list[int]:
    """The places that a request with so many beams has: eights, and the smallest that holds the rest."""
    rest = beams % 8
    return [8] * (beams // 8) + ([] if rest == 0 else [1] if rest == 1 else [4] if rest <= 4 else [8])
