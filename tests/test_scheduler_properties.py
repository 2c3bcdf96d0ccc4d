"""Any sequence of arrivals, cancellations, deadlines and faults leaves the scheduler in order, after every step.

The rules themselves are in :class:`hand_loop.HandLoop`: slots are conserved, running rows are slots 0 .. n-1, each
request has one terminal event and nothing after it, and every answer is the pencil's.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from arithmetic_engine import COST, END, START
from hand_loop import HandLoop, make_limits
from seqserve_server.capacity import Capacity
from seqserve_server.request import Failed
from seqserve_server.scheduler import Scheduler

POISON, NAN = 26, 27
contents = st.lists(st.integers(3, 25), min_size=1, max_size=40)


class AnyTraffic(RuleBasedStateMachine):
    """Rules are what callers and the engine do; each step of the loop checks everything."""

    ids: Bundle[int] = Bundle("ids")

    @initialize(
        max_rows=st.integers(1, 12), encode_tokens=st.integers(1, 64),
        capacity=st.sampled_from([Capacity(8, 64, 64), Capacity(16, 64, 64), Capacity(64, 128, 64)]),
        forced_end=st.booleans(),
    )
    def start(self, max_rows: int, encode_tokens: int, capacity: Capacity, forced_end: bool) -> None:
        limits = make_limits(max_rows, encode_tokens, COST.bytes_of(capacity))
        self.hand = HandLoop(limits, scheduler=Scheduler(limits, END, forced_end=forced_end))
        self.hand.engine.poison, self.hand.engine.nan = POISON, NAN

    @rule(target=ids, content=contents, most=st.integers(1, 61), least=st.integers(0, 61), stream=st.booleans(),
          patience=st.none() | st.integers(0, 20), forced=st.lists(st.integers(2, 25), max_size=3))
    def submit(
        self, content: list[int], most: int, least: int, stream: bool, patience: int | None, forced: list[int]
    ) -> int:
        deadline = None if patience is None else self.hand.now + patience
        prompt = (START, *forced)
        return self.hand.submit([*content, END], most, min(least, most), deadline, stream, prompt=prompt)

    @rule(count=st.integers(2, 20), content=contents)
    def submit_many(self, count: int, content: list[int]) -> None:
        for number in range(count):
            self.hand.submit([*content, number, END], 5 + number)

    @rule(content=contents, bad=st.sampled_from([POISON, NAN]), stream=st.booleans())
    def submit_a_bad_one(self, content: list[int], bad: int, stream: bool) -> None:
        self.hand.submit([*content, bad, END], 20, stream=stream)

    @rule(number=ids)
    def cancel(self, number: int) -> None:
        self.hand.cancel(number)

    @rule()
    def break_the_next_step(self) -> None:
        self.hand.engine.broken_steps.add(len(self.hand.engine.steps))

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.hand.now += 1.0
            self.hand.step()

    def teardown(self) -> None:
        if not hasattr(self, "hand"):
            return
        self.hand.run()
        assert set(self.hand.ended) == set(self.hand.requests)
        for number, event in self.hand.ended.items():
            if isinstance(event, Failed) and not self.hand.engine.broken_steps:
                source = self.hand.requests[number].source
                assert NAN in source or POISON in self._encoded_with(source), "an innocent request failed"

    def _encoded_with(self, source: tuple[int, ...]) -> set[int]:
        """Ids of all sources that were in one encoder batch with this one."""
        batches = [batch for batch in self.hand.engine.encoded if list(source) in batch]
        return {token_id for batch in batches for each in batch for token_id in each}


class MuchTraffic(AnyTraffic):
    """The same for longer."""


QUICK = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
AnyTraffic.TestCase.settings = QUICK
MuchTraffic.TestCase.settings = settings(QUICK, max_examples=1000, stateful_step_count=100, derandomize=False)
TestAnyTraffic = AnyTraffic.TestCase
TestMuchTraffic = pytest.mark.slow(MuchTraffic.TestCase)
