"""The scheduler in virtual time: tens of thousands of events, adversarial arrivals, planted bugs."""

from dataclasses import replace

import pytest

from arithmetic_engine import COST, END
from hand_loop import make_limits
from seqserve_server.capacity import Capacity
from seqserve_server.decoding.choice import Choice
from seqserve_server.engine import Release
from seqserve_server.plan import Plan
from seqserve_server.request import Event, Finished, FinishReason, Request, TokensChosen
from seqserve_server.scheduler import Scheduler
from simulation import Arrival, Simulation, adversarial, encode_seconds, step_seconds

LIMITS = make_limits(max_rows=16, encode_tokens=64)
ENDLESS = (28, END)


@pytest.mark.parametrize("seed", range(4))
def test_adversarial_arrivals_are_served_in_order_in_time_and_without_starving_anybody(seed: int) -> None:
    simulation = Simulation(LIMITS)
    simulation.play(adversarial(seed, 700))
    reasons = {event.reason for event in simulation.ended.values() if isinstance(event, Finished)}
    assert reasons == set(FinishReason)
    assert sum(simulation.engine.steps) + len(simulation.requests) > 4_000  # tokens and requests of this one run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_adversarial_arrivals_over_many_seeds(seed: int) -> None:
    rows = (1, 3, 16, 64)[seed % 4]
    Simulation(make_limits(max_rows=rows, encode_tokens=32 << seed % 5)).play(adversarial(seed, 5_000))


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


class ForgetsToRelease(Scheduler):
    def plan(self, now: float) -> Plan:
        return replace(super().plan(now), release=[])


class ReleasesTooLittle(Scheduler):
    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        return replace(plan, release=[Release(each.slot, each.target_length - 2, each.source_length)
                                      for each in plan.release])


class EndsTwice(Scheduler):
    def apply(self, choice: Choice, now: float) -> list[Event]:
        events = super().apply(choice, now)
        return events + [event for event in events if isinstance(event, Finished)]


class SpeaksAfterTheEnd(Scheduler):
    def apply(self, choice: Choice, now: float) -> list[Event]:
        return sorted(super().apply(choice, now), key=lambda event: isinstance(event, TokensChosen))


class ForgetsTheEnd(Scheduler):
    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        return super().cancel(request_id, now, reason)[:0]


class MovesTheWrongRow(Scheduler):
    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        return replace(plan, moves=[replace(move, source=max(move.source - 1, 0)) for move in plan.moves])


class ForgetsToMove(Scheduler):
    def plan(self, now: float) -> Plan:
        return replace(super().plan(now), moves=[])


class LetsTheLastInFirst(Scheduler):
    def submit(self, request: Request) -> None:
        super().submit(request)
        self._waiting.rotate(1)


class IgnoresDeadlines(Scheduler):
    def _expire(self, now: float) -> list[Event]:
        return []


class EndsTooEarly(Scheduler):
    def submit(self, request: Request) -> None:
        early = None if request.deadline is None else request.deadline - 0.02
        super().submit(replace(request, deadline=early))


class KeepsTheSlotOfACancelledRow(Scheduler):
    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        if request_id in self._slots:
            return [Finished(request_id, reason, [], [], self._times(request_id))]
        return super().cancel(request_id, now, reason)

    def _times(self, request_id: int):  # type: ignore[no-untyped-def]
        row = self._rows[self._slots[request_id]]
        assert row is not None
        return replace(row.times, ended=row.request.deadline)


class EncodesWithoutBound(Scheduler):
    def plan(self, now: float) -> Plan:
        self._limits = replace(self._limits, encode_tokens=1 << 30)
        return super().plan(now)


class RunsOneBatchAtATime(Scheduler):
    def _admit(self) -> list[Request]:
        return [] if self._slots else super()._admit()


class SwapsTokens(Scheduler):
    def apply(self, choice: Choice, now: float) -> list[Event]:
        return super().apply(Choice(choice.tokens[::-1], choice.log_probs[::-1]), now)


class IgnoresTheMinimum(Scheduler):
    def plan(self, now: float) -> Plan:
        return replace(super().plan(now), end_banned=[])


class CountsOneTooMany(Scheduler):
    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        return replace(plan, positions=[position + 1 for position in plan.positions])


BUGS: dict[type[Scheduler], str] = {
    ForgetsToRelease: "not empty|not cleared|dirty slots",
    ReleasesTooLittle: "not empty|not cleared|dirty slots",
    EndsTwice: "after the terminal event",
    SpeaksAfterTheEnd: "the stream is not the answer|after the terminal event",
    ForgetsTheEnd: "is not what was submitted",
    MovesTheWrongRow: "rows hold",
    ForgetsToMove: "rows hold",
    LetsTheLastInFirst: "was overtaken",
    IgnoresDeadlines: "later than one iteration after its deadline",
    EndsTooEarly: "declared too early",
    KeepsTheSlotOfACancelledRow: "belongs to a request that has ended",
    EncodesWithoutBound: "more than one encoder budget",
    RunsOneBatchAtATime: "a slot stayed empty",
    SwapsTokens: "not the pencil's answer",
    IgnoresTheMinimum: "not the pencil's answer",
    CountsOneTooMany: "rows hold",
}


@pytest.mark.parametrize(("bug", "symptom"), BUGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_is_found(bug: type[Scheduler], symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        Simulation(LIMITS, bug).play(adversarial(0, 800))


def test_a_scheduler_that_ignores_the_byte_budget_is_found() -> None:
    class Overspends(Scheduler):
        def plan(self, now: float) -> Plan:
            self._limits = replace(self._limits, cache_bytes=1 << 40)
            return super().plan(now)

    tight = make_limits(cache_bytes=COST.bytes_of(Capacity(8, 64, 32)))
    with pytest.raises(AssertionError, match=r"outgrow the budget|over the budget"):
        Simulation(tight, Overspends).play([Arrival(0.0, ENDLESS, 60) for _ in range(40)])
    Simulation(tight).play([Arrival(0.0, ENDLESS, 60) for _ in range(40)])
