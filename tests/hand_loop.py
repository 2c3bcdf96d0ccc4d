"""The loop without its thread: tests turn the crank, own the clock, and see every event."""

from collections import Counter
from collections.abc import Sequence

from arithmetic_engine import COST, END, START, ArithmeticEngine, answer
from seqserve_server.capacity import Capacity, SchedulerLimits
from seqserve_server.loop import Loop, StepFacts
from seqserve_server.request import Event, Failed, Finished, FinishReason, Request, TokensChosen
from seqserve_server.scheduler import Scheduler


def make_limits(max_rows: int = 64, encode_tokens: int = 512, cache_bytes: int = 1 << 20) -> SchedulerLimits:
    """Limits around the arithmetic engine's costs."""
    return SchedulerLimits(max_rows, encode_tokens, cache_bytes, COST)


class HandLoop:
    """A loop around the arithmetic engine, and the rules that hold after every one of its steps.

    Attributes:
        now: The clock; tests set it.
        requests: Everything submitted, in order.
        events: Everything published, in order.
        facts: What was observed, one per step that did something.
        open: Ids of requests that have not ended, in order.
        ended: Terminal event of each request.
    """

    def __init__(
        self, limits: SchedulerLimits | None = None, engine: ArithmeticEngine | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.limits = limits or make_limits()
        self.engine = engine or ArithmeticEngine(self.limits.cache_bytes)
        self.scheduler = scheduler or Scheduler(self.limits, END)
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.events: list[Event] = []
        self.facts: list[StepFacts] = []
        self.open: dict[int, None] = {}
        self.ended: dict[int, Finished | Failed] = {}
        self.cancelled: set[int] = set()
        self.loop = Loop(
            self.engine, self.scheduler, END, self.events.extend, lambda facts, _: self.facts.append(facts),
            clock=lambda: self.now,
        )
        self._streamed: dict[int, list[int]] = {}
        self._checked = 0

    def submit(
        self, source: Sequence[int], max_new_tokens: int = 40, min_new_tokens: int = 0,
        deadline: float | None = None, stream: bool = False, arrival: float | None = None,
        prompt: tuple[int, ...] = (START,),
    ) -> int:
        """Submit one request; returns its id."""
        arrival = self.now if arrival is None else arrival
        request = Request(
            len(self.requests), tuple(source), prompt, max_new_tokens, min_new_tokens, arrival, deadline, stream
        )
        self.requests[request.id] = request
        self.open[request.id] = None
        self.loop.submit([request])
        return request.id

    def cancel(self, request_id: int) -> None:
        """Cancel one request."""
        self.cancelled.add(request_id)
        self.loop.cancel([request_id])

    def step(self) -> list[Event]:
        """One iteration, after which every rule is checked; returns its events."""
        observed = len(self.facts)
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

    def check(self, fresh: Sequence[Event], facts: StepFacts | None) -> None:
        """The rules. A scheduler with a fault breaks one of them, or the engine notes a misuse."""
        assert not self.engine.misuses, self.engine.misuses[0]
        for event in fresh:
            assert event.request_id not in self.ended, f"{event} after the terminal event"
            if isinstance(event, TokensChosen):
                assert self.requests[event.request_id].stream, "tokens for a caller that does not stream"
                self._streamed.setdefault(event.request_id, []).extend(event.token_ids)
            else:
                self.ended[event.request_id] = event
                del self.open[event.request_id]
                self._check_end(self.requests[event.request_id], event)
        self._check_counts(fresh, facts)
        self._check_memory()

    def _check_end(self, request: Request, event: Finished | Failed) -> None:
        tokens, log_probs, reason = answer(
            request.source, request.max_new_tokens, request.min_new_tokens, prompt=request.prompt,
            forced_end=self.scheduler._forced_end,
        )
        streamed = self._streamed.get(request.id, [])
        if isinstance(event, Failed):
            assert streamed == tokens[: len(streamed)]
            return
        if event.reason in (FinishReason.EOS, FinishReason.LENGTH):
            whole = (event.token_ids, event.log_probs, event.reason)
            assert whole == (tokens, log_probs, reason), f"not the pencil's answer to {request}"
        else:
            count = len(event.log_probs)
            assert event.token_ids == tokens[: len(event.token_ids)]
            assert event.log_probs == log_probs[:count]
            assert count == len(event.token_ids) < request.max_new_tokens
        if event.reason is FinishReason.CANCELLED:
            assert request.id in self.cancelled
        if event.reason is FinishReason.DEADLINE:
            assert request.deadline is not None
            assert event.times.ended is not None
            assert request.deadline <= event.times.ended, "the deadline was declared too early"
        if request.stream:
            assert streamed == event.token_ids, "the stream is not the answer"
        times = event.times
        stages = [times.arrival, times.admitted, times.encoded, times.first_token, times.ended]
        known = [stage for stage in stages if stage is not None]
        assert known == sorted(known), "stages out of order"

    def _check_counts(self, fresh: Sequence[Event], facts: StepFacts | None) -> None:
        running = self.scheduler.running_ids()
        waiting = self.open.keys() - set(running)
        assert self.scheduler.running == len(running) <= self.limits.max_rows
        assert self.scheduler.waiting == len(waiting), "waiting + running + ended is not what was submitted"
        assert not set(running) & set(self.ended), "a slot belongs to a request that has ended"
        assert max(running, default=-1) < min(waiting, default=1 << 62), "a request was overtaken in the queue"
        slots = [self.scheduler.request_in(slot) for slot in range(self.limits.max_rows)]
        assert Counter(slot for slot in slots if slot is not None) == Counter(running), "slots are not conserved"
        if facts is not None and facts.rows:
            whole = sum(
                isinstance(event, Finished) and event.reason in (FinishReason.EOS, FinishReason.LENGTH)
                for event in fresh
            )
            fed = {number: self.engine.fed(slot) for slot, number in enumerate(slots) if number is not None}
            prompting = sum(len(fed[number]) < len(self.requests[number].prompt) for number in running)
            assert facts.tokens == len(running) - prompting + whole, "tokens emitted are not the tokens counted"
            for number in running:
                prompt = self.requests[number].prompt
                assert fed[number][: len(prompt)] == list(prompt)[: len(fed[number])], "the prompt was not fed"

    def _check_memory(self) -> None:
        if running := self.scheduler.running_ids():
            most = self.most_that_need(running)
            assert self.limits.fits(most), f"{most} could outgrow the budget"
        assert self.engine.state_bytes <= self.limits.cache_bytes

    def most_that_need(self, numbers: Sequence[int]) -> Capacity:
        """What requests could need before they end, if they run together."""
        rows = [self.requests[number] for number in numbers]
        return Capacity(len(rows), max(row.target_length for row in rows), max(len(row.source) for row in rows))
