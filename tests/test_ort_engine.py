"""The real engine on a random small model: what is shared, what is copied, and which bits may change (none)."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.bundle import read_model
from seqserve_server.capacity import Capacity, SchedulerLimits
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.encoder_batch import pack
from seqserve_server.engine import (
    Changes,
    Layout,
    PlaceMove,
    PlaceRelease,
    RowMove,
    RowRelease,
    Source,
    StepInput,
)
from seqserve_server.loop import Loop
from seqserve_server.ort_engine import OrtEngine, _value
from seqserve_server.placement import Place
from seqserve_server.request import Event, Failed, Finished, Request
from seqserve_server.scheduler import Scheduler
from seqserve_server.state_buffers import Array

Bits = NDArray[np.uint32]
Open = Callable[..., OrtEngine]
LENGTHS = (1, 2, 5, 16, 17, 40)


@pytest.fixture
def open_engine(tiny_bundle: Path) -> Open:
    def open_engine(threads: int = 1, cache_bytes: int = 1 << 26) -> OrtEngine:
        return OrtEngine(tiny_bundle, read_model(tiny_bundle), threads=threads, cache_bytes=cache_bytes, max_rows=64)

    return open_engine


def sources(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [(*(rng.randrange(3, 200) for _ in range(rng.choice(LENGTHS) - 1)), 1) for _ in range(count)]


def bits(values: NDArray[np.generic]) -> Bits:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).copy()


def capacity(rows: int, target: int, source: int) -> Capacity:
    """Every row has a place of its own."""
    return Capacity(rows, target, source, (rows, 0, 0))


def greedy(rows: int) -> Layout:
    """Row i reads place i."""
    return Layout([0] * rows, list(range(rows)), [0] * rows, (rows, 0, 0))


class Decoding:
    """Greedy decoding straight on an engine: rows and places 0 .. n-1, all started at once."""

    def __init__(self, engine: OrtEngine, rows: Sequence[Sequence[int]]) -> None:
        self.engine = engine
        self.tokens = [2] * len(rows)
        self.position = 0
        self.sources = rows
        engine.reserve(capacity(len(rows), 1, max(map(len, rows))))
        engine.encode([Source(row, (Place(0, row),), source) for row, source in enumerate(rows)])

    def step(self) -> Bits:
        rows = len(self.tokens)
        self.engine.reserve(capacity(rows, self.position + 1, max(map(len, self.sources))))
        found = self.engine.step(StepInput(self.tokens, [self.position] * rows, 2, greedy(rows)))
        self.tokens = found.token_ids[:, 0].tolist()
        self.position += 1
        return bits(found.log_probs)

    def steps(self, count: int) -> Bits:
        return np.stack([self.step() for _ in range(count)])

    def release(self) -> None:
        self.engine.change(Changes(
            [RowRelease(row, self.position) for row in range(len(self.sources))],
            [PlaceRelease(Place(0, row), len(source)) for row, source in enumerate(self.sources)],
        ))


def contents(engine: OrtEngine) -> dict[str, Array]:
    """All that is kept for rows and places."""
    places = {f"cross.x{width}": engine.buffers.of_width("cross", index) for index, width in enumerate(engine.widths)}
    return {"self": engine.buffers.current("self"), **places}


def addresses(engine: OrtEngine, name: str) -> list[int]:
    return [int(layer.ctypes.data) for layer in engine.buffers.current(name)]


def test_the_step_writes_state_into_the_very_memory_it_reads(open_engine: Open) -> None:
    engine = open_engine()
    decoding = Decoding(engine, sources(5))
    before = addresses(engine, "self")
    decoding.steps(3)
    (bound,) = engine._bound.values()
    outputs = {value.data_ptr() for value in bound.binding.get_outputs()}
    assert addresses(engine, "self") == before
    assert set(before) < outputs
    assert outputs == {*before, bound.log_probs.ctypes.data, bound.token_ids.ctypes.data}


def test_a_step_changes_one_position_of_each_row_and_no_other_byte_of_any_state(open_engine: Open) -> None:
    engine = open_engine()
    decoding = Decoding(engine, sources(5))
    for position in range(6):
        before = {name: array.copy() for name, array in contents(engine).items()}
        decoding.step()
        after = engine.buffers.current("self")
        changed = bits(before["self"]).reshape(after.shape) != bits(after).reshape(after.shape)
        layers, rows, _, places, _ = np.nonzero(changed)
        assert set(places.tolist()) == {position}
        assert set(rows.tolist()) == set(range(5))
        assert set(layers.tolist()) == set(range(after.shape[0]))
        assert all((bits(before[name]) == bits(now)).all() for name, now in contents(engine).items() if name != "self")


def test_results_do_not_depend_on_capacity(open_engine: Open) -> None:
    tight, roomy = open_engine(), open_engine()
    roomy.reserve(Capacity(64, 128, 128, (64, 4, 2)))
    rows = sources(7)
    assert (Decoding(tight, rows).steps(20) == Decoding(roomy, rows).steps(20)).all()
    assert tight.buffers.capacity != roomy.buffers.capacity


def test_growth_in_the_middle_keeps_every_bit(open_engine: Open) -> None:
    rows = sources(6)
    expected = Decoding(open_engine(), rows).steps(20)
    engine = open_engine()
    decoding = Decoding(engine, rows)
    got = [decoding.steps(5)]
    for need in (capacity(20, 1, 1), capacity(1, 100, 1), capacity(1, 1, 128)):
        before, generation = addresses(engine, "self"), engine.buffers.generation
        engine.reserve(need)
        assert engine.buffers.generation == generation + 1
        assert addresses(engine, "self") != before
        got.append(decoding.steps(5))
    assert (np.concatenate(got) == expected).all()


def test_a_row_has_the_same_bits_alone_and_among_others_at_any_place(open_engine: Open) -> None:
    engine, rows = open_engine(), sources(24)
    together = Decoding(engine, rows)
    expected = together.steps(12)
    together.release()
    for place, row in enumerate(rows):
        alone = Decoding(engine, [row])
        assert (alone.steps(12)[:, 0] == expected[:, place]).all(), f"row {place}, a source of {len(row)}"
        alone.release()


def test_the_number_of_threads_changes_no_bit(open_engine: Open) -> None:
    rows = sources(9)
    assert (Decoding(open_engine(threads=1), rows).steps(12) == Decoding(open_engine(threads=2), rows).steps(12)).all()


def test_the_encoder_gives_a_source_the_same_bits_in_any_batch(open_engine: Open) -> None:
    engine, rows = open_engine(), sources(16)
    batch = pack(rows)
    together = engine.run_encoder(batch, ["states"])["states"]
    for place, row in enumerate(rows):
        alone = engine.run_encoder(pack([row]), ["states"])["states"]
        assert (bits(alone) == bits(together[batch.starts[place] : batch.starts[place + 1]])).all()


def test_released_rows_and_places_are_zero(open_engine: Open) -> None:
    engine = open_engine()
    decoding = Decoding(engine, sources(6))
    decoding.steps(9)
    engine.change(Changes([RowRelease(2, 9)], [PlaceRelease(Place(0, 2), len(decoding.sources[2]))]))
    for name in ("self", "cross.x1"):
        array = contents(engine)[name]
        assert not array[:, 2].any()
        assert all(array[:, index].any() for index in (0, 1, 3, 4, 5))
    decoding.release()
    assert not any(array.any() for array in contents(engine).values())


def test_a_moved_row_goes_on_with_the_same_bits(open_engine: Open) -> None:
    rows = sources(3)
    expected = Decoding(open_engine(), rows).steps(10)
    engine = open_engine()
    decoding = Decoding(engine, rows)
    decoding.steps(4)
    engine.change(Changes(
        [RowRelease(0, 4)], [PlaceRelease(Place(0, 0), len(rows[0]))],
        [RowMove(2, 0, 4)], [PlaceMove(Place(0, 2), Place(0, 0), len(rows[2]))],
    ))
    decoding.tokens = [decoding.tokens[2], decoding.tokens[1]]
    decoding.sources = [rows[2], rows[1]]
    got = decoding.steps(6)
    assert (got[:, 0] == expected[4:, 2]).all()
    assert (got[:, 1] == expected[4:, 1]).all()
    assert not engine.buffers.current("self")[:, 2].any()


def test_what_is_not_a_number_stays_in_its_row_and_ends_with_its_release(open_engine: Open) -> None:
    rows = sources(3)
    clean = Decoding(open_engine(), rows)
    expected = clean.steps(8)
    engine = open_engine()
    decoding = Decoding(engine, rows)
    decoding.steps(3)
    engine.buffers.current("self")[:, 1, :, 1] = np.nan
    decoding.tokens[1] = 5
    found = engine.step(StepInput(decoding.tokens, [3] * 3, 2, greedy(3)))
    assert np.isnan(found.log_probs[1]).all()
    assert (bits(found.log_probs[[0, 2]]) == expected[3][[0, 2]]).all()
    decoding.position = 5
    decoding.release()
    assert (Decoding(engine, rows).steps(8) == expected).all()


def test_candidates_are_the_best_two_of_the_log_softmax(open_engine: Open) -> None:
    engine, rows = open_engine(), sources(4)
    step = StepInput([2] * 4, [0] * 4, 2, greedy(4))
    engine.reserve(capacity(4, 1, 40))
    engine.encode([Source(row, (Place(0, row),), source) for row, source in enumerate(rows)])
    found = engine.step(step)
    token_ids, log_probs = found.token_ids.copy(), found.log_probs.copy()
    given = engine.step(dataclasses.replace(step, logits=True)).logits
    assert given is not None
    logits = given.astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert (token_ids == np.argsort(-logits, axis=1, kind="stable")[:, :2]).all()
    np.testing.assert_allclose(log_probs, np.take_along_axis(expected, token_ids, axis=1), atol=1e-5)


def test_a_step_beyond_the_buffers_is_refused_before_it_reaches_the_runtime(open_engine: Open) -> None:
    engine = open_engine()
    Decoding(engine, sources(2))
    with pytest.raises(IndexError, match="does not fit"):
        engine.step(StepInput([2], [engine.buffers.capacity.target], 2, greedy(1)))
    with pytest.raises(IndexError, match="does not fit"):
        engine.step(StepInput([2] * 9, [0] * 9, 2, greedy(9)))


def test_an_array_that_would_be_copied_silently_is_refused() -> None:
    with pytest.raises(ValueError, match="only contiguous arrays are shared"):
        _value(np.zeros((4, 4), dtype=np.float32)[:, :2])


def test_neighbours_that_leave_fail_or_arrive_change_no_bit_of_anybody(open_engine: Open) -> None:
    model_limits = SchedulerLimits(16, 128, 1 << 26, open_engine().buffers.cost, open_engine().widths)
    rows = sources(60, seed=3)

    def play(engine: OrtEngine, chosen: Sequence[int], cancels: dict[int, int]) -> dict[int, Event]:
        ended: dict[int, Event] = {}
        loop = Loop(engine, Scheduler(model_limits),
                    lambda events: ended.update((event.request_id, event) for event in events))
        rng, step, waiting, busy = random.Random(len(chosen)), 0, list(chosen), True
        while busy or waiting:
            count = rng.randrange(4)
            loop.submit([Request(number, rows[number], (2,), SearchSettings(1, 12)) for number in waiting[:count]])
            waiting = waiting[count:]
            loop.cancel([number for number, when in cancels.items() if when == step])
            busy = loop.step()
            step += 1
        return ended

    engine = open_engine()
    alone: dict[int, Event] = {}
    for number in range(60):
        alone |= play(engine, [number], {})
    rng = random.Random(1)
    cancels = {number: rng.randrange(40) for number in range(0, 60, 3)}
    mixed = play(engine, rng.sample(range(60), 60), cancels)
    assert not any(isinstance(event, Failed) for event in mixed.values())
    for number, event in mixed.items():
        other = alone[number]
        assert isinstance(event, Finished)
        assert isinstance(other, Finished)
        if number not in cancels:
            assert event == other
        else:
            count = len(event.log_probs)
            assert (event.token_ids, event.log_probs) == (other.token_ids[:count], other.log_probs[:count])
