"""The scheduler in virtual time: tens of thousands of events, and adversarial arrivals."""

from dataclasses import replace

import pytest

from arithmetic_engine import COST, END
from hand_loop import make_limits
from seqserve_server.capacity import Capacity
from seqserve_server.plan import Plan
from seqserve_server.request import Failed, Finished, FinishReason
from seqserve_server.scheduler import Scheduler
from simulation import Arrival, Simulation, adversarial, encode_seconds, step_seconds

LIMITS = make_limits(max_rows=16, encode_tokens=64)
ENDLESS = (26, END)


@pytest.mark.parametrize("seed", range(4))
def test_adversarial_arrivals_are_served_in_order_in_time_and_without_starving_anybody(seed: int) -> None:
    simulation = Simulation(LIMITS)
    simulation.play(adversarial(seed, 700))
    reasons = {event.reason for event in simulation.ended.values() if isinstance(event, Finished)}
    assert reasons == set(FinishReason) - {FinishReason.STOP}  # the pencil has no texts
    failures = {event.message for event in simulation.ended.values() if isinstance(event, Failed)}
    assert failures == {"the encoder failed", "the model produced a value that is not finite"}
    assert sum(simulation.engine.steps) + len(simulation.requests) > 4_000  # tokens and requests of this one run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_adversarial_arrivals_over_many_seeds(seed: int) -> None:
    rows = (1, 3, 16, 64)[seed % 4]
    Simulation(make_limits(max_rows=rows, encode_tokens=32 << seed % 5)).play(adversarial(seed, 5_000, rows))


def test_a_herd_takes_just_the_steps_that_full_batches_need() -> None:
    simulation = Simulation(make_limits(max_rows=32))
    simulation.play([Arrival(0.0, ENDLESS, 10) for _ in range(256)])
    assert simulation.engine.steps == [32] * 80
    assert simulation.now == pytest.approx(80 * step_seconds(32) + 8 * encode_seconds(64))


def test_a_giant_among_dwarfs_starts_when_its_turn_comes() -> None:
    simulation = Simulation(make_limits(max_rows=4, encode_tokens=16))
    dwarfs = [Arrival(0.0001 * number, ENDLESS, 3) for number in range(400)]
    simulation.play([*dwarfs, Arrival(0.02, (*(3,) * 99, END), 60)])
    giant = next(number for number, request in simulation.requests.items() if len(request.source) == 100)
    admitted = [event.times.admitted for _, event in sorted(simulation.ended.items()) if isinstance(event, Finished)]
    known = [time for time in admitted if time is not None]
    assert len(known) == 401
    assert known == sorted(known)
    assert 150 < giant < 250


def test_throughput_at_saturation_is_that_of_full_steps() -> None:
    simulation = Simulation(make_limits(max_rows=16))
    simulation.play([Arrival(0.001 * number, ENDLESS, 20) for number in range(400)])
    ideal = 16 / step_seconds(16)
    assert ideal * 0.8 < 400 * 20 / simulation.now < ideal


def test_a_herd_of_beams_takes_just_the_steps_that_full_batches_need() -> None:
    simulation = Simulation(make_limits(max_rows=32))
    simulation.play([Arrival(0.0, ENDLESS, 10, beams=4) for _ in range(64)])
    assert simulation.engine.steps == [8, *[32] * 9] * 8


def test_a_wide_beam_among_greedy_requests_starts_when_its_turn_comes() -> None:
    simulation = Simulation(make_limits(max_rows=8))
    small = [Arrival(0.0001 * number, ENDLESS, 3) for number in range(400)]
    simulation.play([*small, Arrival(0.02, ENDLESS, 20, beams=8)])
    admitted = [event.times.admitted for _, event in sorted(simulation.ended.items()) if isinstance(event, Finished)]
    known = [time for time in admitted if time is not None]
    assert len(known) == 401
    assert known == sorted(known)


def test_a_scheduler_that_ignores_the_byte_budget_is_found() -> None:
    class Overspends(Scheduler):
        def plan(self, now: float) -> Plan:
            self._limits = replace(self._limits, cache_bytes=1 << 40)
            return super().plan(now)

    tight = make_limits(cache_bytes=COST.bytes_of(Capacity(8, 64, 32, (8, 0, 0))))
    with pytest.raises(AssertionError, match=r"outgrow the budget|over the budget"):
        Simulation(tight, Overspends).play([Arrival(0.0, ENDLESS, 60) for _ in range(40)])
    Simulation(tight).play([Arrival(0.0, ENDLESS, 60) for _ in range(40)])
