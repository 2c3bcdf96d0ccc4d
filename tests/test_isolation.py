"""A run that raises costs the request that is at fault, and nobody else so much as a bit."""

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arithmetic_engine import END, ArithmeticEngine
from faulty_engine import FaultyEngine
from hand_loop import HandLoop, make_limits
from play import BAD, Play, real, requests, told
from seqserve_server.engine import Candidates, Pair, StepInput
from seqserve_server.engine_thread import Runner
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.isolation import EngineBroken, Isolation
from seqserve_server.loop import Loop
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.request import Failed, TokensChosen
from seqserve_server.state_buffers import UNUSED

PENCIL_BAD = 27


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fault", ["bad_step", "bad_encode"])
def test_of_the_real_engine_only_the_guilty_fail_and_the_others_keep_every_bit(
    tiny_bundle: Path, fault: str, seed: int
) -> None:
    rng = random.Random(seed)
    given = requests(24, seed, bad=(bad := rng.sample(range(24), 3)))
    arrivals = [rng.randrange(6) for _ in given]
    expected = real(tiny_bundle).run(given, arrivals)
    play = real(tiny_bundle)
    setattr(play.faulty, fault, BAD)
    found = play.run(given, arrivals)
    message = "the decoder failed" if fault == "bad_step" else "the encoder failed"
    assert {number: found[number] for number in bad} == {number: Failed(number, message) for number in bad}
    for number in set(range(24)) - set(bad):
        assert told(found[number]) == told(expected[number])
    assert play.faulty.raised > 0
    check_zeroed(play)


def check_zeroed(play: Play) -> None:
    buffers = play.faulty.inner.buffers  # type: ignore[attr-defined]
    assert not any(np.any(array) for arrays in buffers._arrays.values() for array in arrays), "a slot was not zeroed"


def test_faults_that_come_once_cost_nobody_anything(tiny_bundle: Path) -> None:
    given = requests(20, 1)
    expected = real(tiny_bundle).run(given)
    play = real(tiny_bundle)
    play.faulty.broken = set(range(0, 40, 3))
    found = play.run(given)
    assert {number: told(event) for number, event in found.items()} == {
        number: told(event) for number, event in expected.items()
    }
    assert play.faulty.raised >= 4


def test_the_state_of_rows_that_are_not_in_a_part_is_not_touched(tiny_bundle: Path) -> None:
    play = real(tiny_bundle)
    loop, engine = play.loop, play.faulty.inner
    assert isinstance(engine, OrtEngine)
    loop.submit(requests(8, 3, beams=False))
    loop.step()
    loop.step()
    plan = loop._scheduler.plan(0.0)
    step = StepInput(plan.tokens, plan.positions, plan.candidates, plan.layout)
    rows = len(step.tokens)
    assert rows > 3
    before = engine.buffers.current("self").copy()
    part = engine.step_part(step, [1, 3])
    log_probs, token_ids = part.log_probs.copy(), part.token_ids.copy()
    changed = np.nonzero((engine.buffers.current("self") != before).any(axis=(0, 2, 3, 4)))[0].tolist()
    assert changed == [1, 3]
    whole = engine.step(step)
    assert whole.log_probs[[1, 3]].tobytes() == log_probs.tobytes()
    assert whole.token_ids[[1, 3]].tobytes() == token_ids.tobytes()


@pytest.mark.parametrize("token", ["nan", "inf"])
def test_who_gets_the_slot_of_a_row_that_was_not_finite_gets_every_bit_right(tiny_bundle: Path, token: str) -> None:
    given = requests(300, 5, bad=range(0, 300, 2), beams=False)
    expected = real(tiny_bundle, max_rows=2).run(given)
    play = real(tiny_bundle, max_rows=2)
    setattr(play.faulty, token, BAD)
    play.faulty.nan_from = 1
    found = play.run(given)
    failed = [number for number, event in found.items() if isinstance(event, Failed)]
    assert len(failed) > 100
    assert all(number % 2 == 0 for number in failed)
    for number in range(1, 300, 2):
        assert told(found[number]) == told(expected[number])


class PoisonedState(FaultyEngine):
    """NaN reaches the state, as a model that computes one writes it; only zeroing keeps it from the next owner."""

    def step(self, step: StepInput) -> Candidates:
        found = super().step(step)
        buffers = self.inner.buffers  # type: ignore[attr-defined]
        for row in np.flatnonzero(np.isnan(found.log_probs[:, 0])).tolist():
            for state in buffers.states.values():
                if state.scope == "row":
                    buffers.current(state.name)[:, row, :, : step.positions[row] + 1] = np.nan
        return found


def test_nan_in_the_state_of_a_failed_row_does_not_reach_the_next_owner(tiny_bundle: Path) -> None:
    given = requests(600, 6, bad=range(0, 600, 2), beams=False)
    expected = real(tiny_bundle, max_rows=2).run(given)
    play = real(tiny_bundle, max_rows=2)
    poisoned = PoisonedState(play.faulty.inner)
    poisoned.nan = BAD
    play.loop = Loop(poisoned, play.loop._scheduler, play.events.extend)
    found = play.run(given)
    for number in range(600):
        assert isinstance(found[number], Failed) if number % 2 == 0 else told(found[number]) == told(expected[number])
    told_of = {event.request_id for event in play.events if isinstance(event, TokensChosen)}
    assert all(number % 2 for number in told_of), "a token of a row that was not finite was sent"
    check_zeroed(play)  # the operators of today read no masked position; those of tomorrow may


def test_a_slot_that_is_not_zeroed_is_found(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug of the test above."""
    honest = HostBuffers._edit
    monkeypatch.setattr(
        HostBuffers, "_edit", lambda self, edits: honest(self, [edit for edit in edits if edit.source != UNUSED])
    )
    with pytest.raises(AssertionError, match="not zeroed"):
        test_nan_in_the_state_of_a_failed_row_does_not_reach_the_next_owner(tiny_bundle)


def test_the_pencils_slots_are_clean_after_thousands_of_rows_that_were_not_finite() -> None:
    hand = HandLoop(make_limits(max_rows=4))
    hand.engine.nan = 26
    numbers = []
    for wave in range(2000):
        numbers += [hand.submit([26, END], 6), hand.submit([5, 6, 3 + wave % 20, END], 6, beams=1 + wave % 3)]
        if wave % 20 == 19:
            hand.run()
    hand.run()
    failed = sum(isinstance(hand.ended[number], Failed) for number in numbers)
    assert failed == 2000


def pencil_faults(engine: ArithmeticEngine, example: Pair | None = None) -> tuple[HandLoop, FaultyEngine]:
    hand = HandLoop(make_limits(max_rows=16), engine)
    faulty = FaultyEngine(engine)
    hand.loop._engine = faulty
    hand.loop._isolation = Isolation(faulty, example=example)
    return hand, faulty


@pytest.mark.parametrize("beams", [1, 4])
def test_with_the_pencil_every_request_but_the_guilty_gets_its_answer(beams: int) -> None:
    hand, faulty = pencil_faults(ArithmeticEngine())
    faulty.bad_step = PENCIL_BAD
    rng = random.Random(beams)
    bad = set()
    for _ in range(60):
        for place in range(4):
            source = [rng.randrange(3, 26), END]
            if rng.random() < 0.1:
                source[0] = PENCIL_BAD
            number = hand.submit(source, 8, beams=rng.randint(1, beams), stream=bool(place % 2))
            if source[0] == PENCIL_BAD:
                bad.add(number)
        hand.step()
    hand.run()
    failed = {number for number, event in hand.ended.items() if isinstance(event, Failed)}
    assert failed == bad
    assert len(bad) > 10


class FailsEverybody(Isolation):
    """The planted bug: what a failing step costs where nobody looks for who caused it."""

    def step(self, step: StepInput, rows_of: Any) -> tuple[Candidates, list[int]]:
        by_request: Mapping[int, Sequence[int]] = rows_of()
        try:
            return self._engine.step(step), []
        except RuntimeError:
            zeros = np.zeros((len(step.tokens), 1))
            return Candidates(zeros.astype(np.float32), zeros.astype(np.int64)), list(by_request)


class ForgetsOneRow(Isolation):
    """The planted bug: a part that leaves out the last of a request's rows."""

    def step(self, step: StepInput, rows_of: Any) -> tuple[Candidates, list[int]]:
        return super().step(step, lambda: {number: rows[:-1] or rows for number, rows in rows_of().items()})


@pytest.mark.parametrize("planted", [FailsEverybody, ForgetsOneRow])
def test_an_isolation_with_a_fault_is_found(planted: type[Isolation], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Isolation", planted)
    with pytest.raises(AssertionError):
        test_with_the_pencil_every_request_but_the_guilty_gets_its_answer(4)


def test_a_bad_request_that_is_alone_fails_and_the_engine_is_not_given_up() -> None:
    hand, faulty = pencil_faults(ArithmeticEngine())
    faulty.bad_step = PENCIL_BAD
    for _ in range(30):
        bad = hand.submit([PENCIL_BAD, END])
        hand.run()
        good = hand.submit([5, END])
        hand.run()
        assert hand.ended[bad] == Failed(bad, "the decoder failed")
        hand.finished(good)


def run_to_its_end(loop: Loop) -> None:
    """As the engine thread does, whose end is what the loop raises."""
    runner = Runner()
    runner.add(loop)
    runner.run()


@pytest.mark.parametrize("kind", ["encode", "step", "score"])
def test_an_engine_that_does_nothing_right_ends_and_everybody_is_told_to_go_elsewhere(kind: str) -> None:
    hand, faulty = pencil_faults(ArithmeticEngine())
    for number in range(40):
        if kind == "score":
            hand.submit_pair([5, END], [6, END])
        else:
            hand.submit([3 + number % 20, END], 60, beams=1)
    if kind == "step":
        hand.step()
    faulty.always = True
    with pytest.raises(EngineBroken):
        run_to_its_end(hand.loop)
    ended = {event.request_id: event for event in hand.events if isinstance(event, Failed)}
    stopped = [event for event in ended.values() if event.engine_stopped]
    assert len(ended) == 40
    assert len(stopped) >= 32, "a pair that failed alone was told so before anybody knew"


def test_who_failed_before_the_engine_was_given_up_is_told_just_once_as_well() -> None:
    hand, faulty = pencil_faults(ArithmeticEngine())
    faulty.always = True
    lengths = (1, 1, 40, 40, 100, 100, 100, 100, 100)  # three encoder batches, of which the last is too much
    for length in lengths:
        hand.submit([3] * length + [END], 3)
    with pytest.raises(EngineBroken):
        run_to_its_end(hand.loop)
    ended = [event.request_id for event in hand.events]
    assert sorted(ended) == list(range(len(lengths)))
    failed = [event.request_id for event in hand.events if isinstance(event, Failed) and not event.engine_stopped]
    assert failed == [0, 1, 2, 3]


def test_what_failed_is_logged_with_ids_and_without_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    hand, faulty = pencil_faults(ArithmeticEngine())
    faulty.bad_step = faulty.bad_score = PENCIL_BAD
    numbers = [hand.submit([place, END], 4) for place in (5, PENCIL_BAD, 7)]
    with caplog.at_level(logging.ERROR):
        hand.run()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"a decoder step failed; requests {', '.join(map(str, numbers))}"
    assert lines[-1] == f"a part of a decoder step failed; requests {numbers[1]}"
    assert sum(facts.failures for facts in hand.facts) == len(lines) == faulty.raised
