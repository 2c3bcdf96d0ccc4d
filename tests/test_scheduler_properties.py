"""Any sequence of arrivals, cancellations, deadlines and faults leaves the scheduler in order, after every step.

The rules themselves are in :class:`hand_loop.HandLoop`: rows and places are conserved and stand close, each request has
one terminal event and nothing after it, and every answer is that of its search alone.
"""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from numpy.typing import NDArray

from arithmetic_engine import COST, END, START
from hand_loop import HandLoop, make_limits
from seqserve_server.capacity import Capacity
from seqserve_server.decoding.search import Advance, Continuation, Hypothesis, Search, SearchSettings, Stopping
from seqserve_server.request import Failed

POISON, NAN, NAN_FED = 26, 27, 28
BEAMS = (1, 2, 3, 4, 5, 8, 9, 12)
contents = st.lists(st.integers(3, 25), min_size=1, max_size=40)
ways = st.fixed_dictionaries({}, optional={
    "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, 2.0]), "stopping": st.sampled_from(Stopping),
    "patience": st.sampled_from([0.5, 2.0]), "forced_end": st.booleans(),
})


class AnyTraffic(RuleBasedStateMachine):
    """Rules are what callers and the engine do; each step of the loop checks everything."""

    ids: Bundle[int] = Bundle("ids")

    @initialize(
        max_rows=st.integers(1, 24), encode_tokens=st.integers(1, 64),
        capacity=st.sampled_from([
            Capacity(16, 64, 64, (8, 2, 1)), Capacity(16, 64, 64, (16, 4, 4)), Capacity(64, 128, 64, (64, 16, 8)),
        ]),
    )
    def start(self, max_rows: int, encode_tokens: int, capacity: Capacity) -> None:
        self.hand = HandLoop(make_limits(max_rows, encode_tokens, COST.bytes_of(capacity)))
        self.hand.engine.poison, self.hand.engine.nan = POISON, NAN

    @rule(target=ids, content=contents, most=st.integers(1, 61), least=st.integers(0, 61), stream=st.booleans(),
          patience=st.none() | st.integers(0, 20), forced=st.lists(st.integers(2, 25), max_size=3),
          beams=st.sampled_from(BEAMS), best=st.integers(1, 12), way=ways)
    def submit(
        self, content: list[int], most: int, least: int, stream: bool, patience: int | None, forced: list[int],
        beams: int, best: int, way: dict[str, float],
    ) -> int:
        deadline = None if patience is None else self.hand.now + patience
        beams = min(beams, self.hand.limits.max_rows)
        return self.hand.submit(
            [*content, END], most, min(least, most), deadline, stream, prompt=(START, *forced), beams=beams,
            num_hypotheses=min(best, beams), **way,
        )

    @rule(count=st.integers(2, 20), content=contents, beams=st.sampled_from((1, 4)))
    def submit_many(self, count: int, content: list[int], beams: int) -> None:
        for number in range(count):
            self.hand.submit([*content, number, END], 5 + number, beams=min(beams, self.hand.limits.max_rows))

    @rule(target=ids, content=contents, scored=st.lists(st.integers(2, 28), max_size=40),
          bad=st.sampled_from([(), (), (), (POISON,), (NAN,)]), patience=st.none() | st.integers(0, 20))
    def submit_a_pair(
        self, content: list[int], scored: list[int], bad: tuple[int, ...], patience: int | None
    ) -> int:
        deadline = None if patience is None else self.hand.now + patience
        return self.hand.submit_pair([*content, *bad, END], (*scored, END), deadline)

    @rule(content=contents, bad=st.sampled_from([POISON, NAN]), stream=st.booleans(), beams=st.sampled_from(BEAMS))
    def submit_a_bad_one(self, content: list[int], bad: int, stream: bool, beams: int) -> None:
        beams = min(beams, self.hand.limits.max_rows)
        self.hand.submit([*content, bad, END], 20, stream=stream, beams=beams)

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
        assert set(self.hand.ended) == self.hand.requests.keys() | self.hand.pairs.keys()
        for number, event in self.hand.ended.items():
            if number in self.hand.requests and isinstance(event, Failed):
                source = self.hand.requests[number].source
                assert NAN in source or POISON in source, "an innocent request failed"


class MuchTraffic(AnyTraffic):
    """The same for longer."""


QUICK = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
AnyTraffic.TestCase.settings = QUICK
MuchTraffic.TestCase.settings = settings(QUICK, max_examples=200, stateful_step_count=100, derandomize=False)
TestAnyTraffic = AnyTraffic.TestCase
TestMuchTraffic = pytest.mark.slow(MuchTraffic.TestCase)


class WildSearch:
    """Continues any hypotheses, as many and in whatever order it likes: more than a beam search would ever do."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._random = random.Random(str(settings))
        self._live = [Hypothesis([], [], 0.0, ended=False)]

    @property
    def candidates(self) -> int:
        """As many as all may need of one parent."""
        return self._settings.beam_size + 1

    wants_logits = False

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Choose parents, and for each child of a parent another token."""
        if len(self._live[0].token_ids) + 1 >= self._settings.max_new_tokens:
            return Advance([], self._live[0].token_ids, self._live)
        count = self._random.choice((1, self._settings.beam_size, self._random.randint(1, self._settings.beam_size)))
        parents = self._random.choices(range(len(self._live)), k=count)
        ranks = [self._random.sample(range(self.candidates), self.candidates) for _ in self._live]
        live, steps = [], []
        for place, parent in enumerate(parents):
            rank, before = ranks[parent][parents[:place].count(parent)], self._live[parent]
            steps.append(Continuation(parent, token_ids[parent][rank]))
            live.append(Hypothesis([*before.token_ids, token_ids[parent][rank]],
                                   [*before.log_probs, log_probs[parent][rank]], 0.0, ended=False))
        self._live = live
        return Advance(steps, [])

    def so_far(self) -> Hypothesis:
        """The first."""
        return self._live[0]


def wild(settings: SearchSettings, prompt: Sequence[int]) -> Search:
    """For every request, greedy ones too."""
    return WildSearch(settings)


@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from(BEAMS), st.integers(1, 40), st.integers(0, 3), st.integers(0, 30)), max_size=25
    ),
    max_rows=st.integers(12, 30), faults=st.sets(st.integers(0, 80), max_size=2),
)
@settings(max_examples=100)
def test_whatever_a_search_does_each_row_holds_the_hypothesis_it_should(
    arrivals: list[tuple[int, int, int, int]], max_rows: int, faults: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqserve_server.scheduler.search_of", wild)
        hand = HandLoop(make_limits(max_rows))
        hand.engine.broken_steps = faults
        for number, (beams, most, pause, regret) in enumerate(arrivals):
            hand.submit([3 + number, END], most, beams=beams, prompt=(START,) * (1 + number % 3), stream=number % 2 > 0)
            for _ in range(pause):
                hand.step()
            if regret < number:
                hand.cancel(regret)
        hand.run()
        assert set(hand.ended) == set(hand.requests)
