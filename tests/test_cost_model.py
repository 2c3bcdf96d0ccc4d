"""What is learned from synthetic traces, and what is concluded from it."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import END, START
from seqserve_server.cost_model import LEAST_ANSWERS, LEAST_STEPS, CostModel, Costs, Load, Trend
from seqserve_server.decoding.search import Hypothesis, SearchSettings
from seqserve_server.loop import StepFacts
from seqserve_server.request import Finished, FinishReason, Request, Times

STEP, ENCODE, SCORE = (0.002, 0.0001), (0.001, 0.00005), (0.0005, 0.00002)


def ended(tokens: int, reason: FinishReason = FinishReason.EOS) -> Finished:
    return Finished(0, reason, [Hypothesis([9] * tokens, [-1.0] * tokens, -1.0, ended=True)], Times(0.0))


def trace(seed: int, steps: int, noise: float = 0.0, mean: float = 20) -> CostModel:
    """A model that has seen so many steps of a server with the costs above."""
    rng, model = random.Random(seed), CostModel()
    for _ in range(steps):
        rows, tokens = rng.randint(1, 64), rng.randint(5, 500)
        facts = StepFacts(rows=rows, step_seconds=(STEP[0] + STEP[1] * rows) * (1 + rng.uniform(-noise, noise)))
        kind = rng.random()
        if kind < 0.3:
            facts.encode_seconds, facts.source_tokens = [ENCODE[0] + ENCODE[1] * tokens], tokens
        elif kind < 0.4:
            facts.score_seconds, facts.scored_tokens = [SCORE[0] + SCORE[1] * 3 * tokens], tokens
        model.observe(facts, [ended(max(1, round(rng.gauss(mean, 4))))] if rng.random() < 0.5 else [])
    return model


def costs_of(model: CostModel) -> Costs:
    assert model.costs is not None
    return model.costs


def test_the_costs_of_a_server_without_noise_are_found_exactly() -> None:
    costs = costs_of(trace(0, 400))
    assert costs.step == pytest.approx(STEP, rel=1e-6)
    assert costs.encode == pytest.approx(ENCODE, rel=1e-6)
    assert costs.score == pytest.approx(SCORE, rel=1e-6)
    assert costs.tokens == pytest.approx((20, 4), rel=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_a_third_leaves_a_tenth(seed: int) -> None:
    costs = costs_of(trace(seed, 2000, noise=1 / 3))
    for rows in (16, 32, 64):
        assert costs.step_seconds(rows) == pytest.approx(STEP[0] + STEP[1] * rows, rel=0.15)


def test_the_same_trace_gives_the_same_costs() -> None:
    assert trace(3, 300, 0.2).costs == trace(3, 300, 0.2).costs


def test_nothing_is_known_before_enough_was_seen() -> None:
    model = CostModel()
    for _ in range(10 * LEAST_STEPS):
        model.observe(StepFacts(rows=4, step_seconds=0.001), [])
    assert model.costs is None
    for _ in range(LEAST_ANSWERS):
        model.observe(StepFacts(rows=4, step_seconds=0.001), [ended(3, FinishReason.CANCELLED)])
    assert model.costs is None, "who is cancelled says nothing of how long answers are"
    for _ in range(LEAST_ANSWERS):
        model.observe(StepFacts(rows=4, step_seconds=0.001), [ended(3)])
    assert model.costs is not None
    assert model.needed_seconds(request(), 4) > 0
    assert CostModel().needed_seconds(request(), 4) == 0


def test_the_gap_between_tokens_counts_where_somebody_waited_for_it() -> None:
    model = trace(0, 100)
    assert costs_of(model).gap == costs_of(model).step, "nobody has waited yet"
    for rows in (1, 64) * 100:
        facts = StepFacts(rows=rows, tokens=rows, joined=rows, step_seconds=0.001, gap_seconds=5.0)
        model.observe(facts, [])
        model.observe(replace(facts, joined=0, gap_seconds=0.003), [])
    assert costs_of(model).gap == pytest.approx((0.003, 0.0), abs=1e-9)


def test_who_leaves_without_rows_is_counted() -> None:
    model = trace(0, 100)
    assert costs_of(model).started == 0, "those of the trace never said when they were admitted"
    for _ in range(400):
        model.observe(StepFacts(rows=1, step_seconds=0.001), [replace(ended(3), times=Times(0.0, admitted=1.0))])
    assert costs_of(model).started > 0.99


def test_long_answers_that_were_cut_off_count_and_short_ones_do_not() -> None:
    model = trace(0, 304)  # told at every eighth step
    before = costs_of(model).tokens[0]
    for tokens in (1, 2, 3) * 20:
        model.observe(StepFacts(rows=1, step_seconds=0.001), [ended(tokens, FinishReason.DEADLINE)])
    assert costs_of(model).tokens[0] == before
    for _ in range(80):
        model.observe(StepFacts(rows=1, step_seconds=0.001), [ended(60, FinishReason.DEADLINE)])
    assert costs_of(model).tokens[0] > before + 20


def test_what_was_long_ago_is_forgotten() -> None:
    model = trace(0, 500)
    for rows in (1, 64) * 300:
        model.observe(StepFacts(rows=rows, step_seconds=10 * (STEP[0] + STEP[1] * rows)), [])
    assert costs_of(model).step == pytest.approx((10 * STEP[0], 10 * STEP[1]), rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e3)), max_size=50), st.floats(0, 1e6))
def test_a_trend_is_never_negative(points: list[tuple[float, float]], where: float) -> None:
    trend = Trend()
    for x, y in points:
        trend.note(x, y)
    base, slope = trend.line()
    assert base >= 0
    assert slope >= 0
    assert base + slope * where >= 0


def request(most: int = 64, prompt: int = 1, **settings: Any) -> Request:
    return Request(0, (3,) * 10, (START,) * prompt, SearchSettings(END, most, **settings))


COSTS = Costs(step=(0.002, 0.0001), gap=(0.002, 0.0001), encode=(0.001, 0.0001), score=(0.0, 0.0), tokens=(20.0, 5.0))
STEP_10 = 0.003


def load(count: int, most: int = 64, beams: int = 1) -> Load:
    return sum([Load.of(request(most, beam_size=beams))] * count, Load())


def test_nobody_waits_while_there_are_rows() -> None:
    assert COSTS.wait_seconds(load(9), load(1), 10) == 0
    assert COSTS.wait_seconds(load(10), load(1), 10) > 0


def test_the_wait_is_the_work_ahead_at_the_pace_of_full_steps() -> None:
    ahead = COSTS.wait_seconds(load(1009), load(1), 10)
    assert ahead == pytest.approx(1000 * 20 * STEP_10 / 10)
    beams = COSTS.wait_seconds(load(250, beams=4), load(10), 10)
    assert beams == ahead
    assert replace(COSTS, started=0.5).wait_seconds(load(1009), load(1), 10) == pytest.approx(ahead * 495.5 / 1000)


def test_no_more_is_expected_of_answers_than_they_may_have() -> None:
    assert COSTS.wait_seconds(load(1009, most=2), load(1, most=2), 10) == pytest.approx(
        1000 * 2 * STEP_10 / 10
    )


def test_the_least_is_less_than_what_is_expected_and_surer_the_more_there_are() -> None:
    parts = [
        COSTS.least_seconds(load(9 + count), load(1), 10) / COSTS.wait_seconds(load(9 + count), load(1), 10)
        for count in (10, 100, 1000, 100_000)
    ]
    assert parts == sorted(parts)
    assert parts[-1] < 1


def test_the_least_counts_the_tokens_that_have_to_be() -> None:
    assert COSTS.least_seconds(Load(), load(1), 10, 30) == pytest.approx(11 * 0.0001 + 30 * 0.0021)
    assert COSTS.least_seconds(Load(), load(1), 10, 0) == pytest.approx(11 * 0.0001 + 0.0021)


def test_what_a_request_needs_counts_its_prompt_and_its_limits() -> None:
    assert COSTS.needed_seconds(request(), 10) == pytest.approx(0.001 + 0.001 + 25 * STEP_10)
    assert COSTS.needed_seconds(request(prompt=4), 10) == pytest.approx(0.002 + 28 * STEP_10)
    assert COSTS.needed_seconds(request(most=3), 10) == pytest.approx(0.002 + 3 * STEP_10)
    assert COSTS.needed_seconds(request(min_new_tokens=60), 10) == pytest.approx(0.002 + 60 * STEP_10)


def test_loads_add_up() -> None:
    one = Load.of(request(beam_size=4), 100)
    assert one == Load(1, 4, 256, 11, 100)
    assert one + one - one == one
    assert replace(one, bytes=0).tokens == 256 + 11
