"""Where state lives: values keep their places and their bits, and what is released is zero."""

import numpy as np
import pytest

from seqserve.bundle import StateTensor
from seqserve_server.capacity import Capacity, StateCost
from seqserve_server.engine import Move, Release
from seqserve_server.state_buffers import StateBuffers

SELF = StateTensor("self", 2, (3, "length", 4), "float32", "row", "target", "append")
CROSS = StateTensor("cross", 2, (3, "length", 4), "float32", "request", "source", "constant")
HIDDEN = StateTensor("hidden", 2, (5,), "float32", "row", "fixed", "replace")
STATES = (SELF, CROSS, HIDDEN)
NAMES = [state.name for state in STATES]


def make_buffers(budget: int = 1 << 24, states: tuple[StateTensor, ...] = STATES) -> StateBuffers:
    buffers = StateBuffers(states, budget)
    buffers.reserve(Capacity(4, 20, 10))
    return buffers


def fill(buffers: StateBuffers, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name in NAMES:
        buffers.current(name)[...] = rng.standard_normal(buffers.current(name).shape)


def test_nothing_is_allocated_before_the_first_reservation() -> None:
    assert StateBuffers(STATES, 1 << 20).bytes_used == 0


def test_arrays_have_the_declared_shape_at_the_rounded_capacity() -> None:
    buffers = make_buffers()
    assert buffers.capacity == Capacity(8, 32, 32)
    assert buffers.current("self").shape == (2, 8, 3, 32, 4)
    assert buffers.current("cross").shape == (2, 8, 3, 32, 4)
    assert buffers.current("hidden").shape == (2, 8, 5)
    assert buffers.bytes_used == StateCost.of(STATES).bytes_of(buffers.capacity)


def test_a_capacity_that_holds_the_need_is_left_alone() -> None:
    buffers = make_buffers()
    before, generation = buffers.current("self"), buffers.generation
    buffers.reserve(Capacity(8, 32, 32))
    assert buffers.current("self") is before
    assert buffers.generation == generation


@pytest.mark.parametrize("need", [Capacity(9, 1, 1), Capacity(1, 33, 1), Capacity(1, 1, 33), Capacity(40, 100, 70)])
def test_growth_keeps_every_value_at_its_place_and_adds_zeros(need: Capacity) -> None:
    buffers = make_buffers()
    fill(buffers)
    buffers.advance()
    fill(buffers, seed=1)
    before = {name: buffers.current(name).copy() for name in NAMES}
    generation = buffers.generation
    buffers.reserve(need)
    assert buffers.capacity.holds(need)
    assert buffers.generation == generation + 1
    for name in NAMES:
        after = buffers.current(name)
        kept = tuple(slice(0, size) for size in before[name].shape)
        assert (after[kept].view(np.uint32) == before[name].view(np.uint32)).all()
        assert np.count_nonzero(after) == np.count_nonzero(before[name])


def test_under_a_tight_budget_sizes_nobody_needs_shrink_and_the_rest_is_kept() -> None:
    cost = StateCost.of(STATES)
    buffers = make_buffers(budget=cost.bytes_of(Capacity(16, 32, 32)))
    buffers.reserve(Capacity(4, 60, 10))
    buffers.current("self")[:, 3, :, :20] = 7.0
    buffers.reserve(Capacity(12, 20, 10))
    assert buffers.capacity == Capacity(16, 32, 32)
    assert (buffers.current("self")[:, 3, :, :20] == 7.0).all()


def test_more_than_the_budget_is_refused_and_nothing_changes() -> None:
    buffers = make_buffers(budget=1 << 16)
    before, capacity = buffers.current("self"), buffers.capacity
    with pytest.raises(MemoryError, match="exceed the budget of 65536"):
        buffers.reserve(Capacity(1000, 1000, 1000))
    assert buffers.current("self") is before
    assert buffers.capacity == capacity


def test_a_released_slot_is_zero_and_its_neighbours_are_untouched() -> None:
    buffers = make_buffers()
    for name in NAMES:
        buffers.current(name)[...] = np.nan
        buffers.following(name)[...] = np.nan
    buffers.release([Release(1, 32, 32)])
    for name in NAMES:
        for array in (buffers.current(name), buffers.following(name)):
            assert not array[:, 1].any()
            assert np.isnan(array[:, [0, *range(2, 8)]]).all()


def test_only_the_written_part_of_a_slot_is_cleared() -> None:
    buffers = make_buffers()
    fill(buffers)
    buffers.release([Release(2, 5, 7)])
    assert not buffers.current("self")[:, 2, :, :5].any()
    assert buffers.current("self")[:, 2, :, 5:].all()
    assert not buffers.current("cross")[:, 2, :, :7].any()
    assert buffers.current("cross")[:, 2, :, 7:].all()


def test_a_move_carries_the_written_part_and_clears_where_it_was() -> None:
    buffers = make_buffers()
    rng = np.random.default_rng(0)
    row = rng.standard_normal((2, 3, 6, 4)).astype(np.float32)
    buffers.current("self")[:, 5, :, :6] = row
    buffers.current("hidden")[:, 5] = 3.0
    buffers.move([Move(5, 1, 6, 2)])
    assert (buffers.current("self")[:, 1, :, :6] == row).all()
    assert (buffers.current("hidden")[:, 1] == 3.0).all()
    assert not buffers.current("self")[:, 5].any()
    assert not buffers.current("hidden")[:, 5].any()


def test_appended_and_constant_states_are_written_where_they_are_read() -> None:
    buffers = make_buffers()
    for name in ("self", "cross"):
        assert buffers.following(name) is buffers.current(name)
        buffers.advance()
        assert buffers.following(name) is buffers.current(name)


def test_replaced_states_have_two_buffers_that_take_turns() -> None:
    buffers = make_buffers()
    first, second = buffers.current("hidden"), buffers.following("hidden")
    assert not np.shares_memory(first, second)
    buffers.advance()
    assert buffers.current("hidden") is second
    assert buffers.following("hidden") is first
    buffers.advance()
    assert buffers.current("hidden") is first


def test_without_replaced_states_there_is_one_phase() -> None:
    buffers = make_buffers(states=(SELF, CROSS))
    buffers.advance()
    assert buffers.phase == 0


def test_what_the_encoder_computed_goes_into_its_slot() -> None:
    buffers = make_buffers()
    values = np.arange(2 * 3 * 7 * 4, dtype=np.float32).reshape(2, 3, 7, 4) + 1
    buffers.write_source("cross", 3, values)
    buffers.write_source("hidden", 3, np.full((2, 5), 9.0, dtype=np.float32))
    assert (buffers.current("cross")[:, 3, :, :7] == values).all()
    assert np.count_nonzero(buffers.current("cross")) == values.size
    assert (buffers.current("hidden")[:, 3] == 9.0).all()


def test_a_prefix_of_rows_is_a_contiguous_view_that_can_be_shared_with_a_runtime() -> None:
    array = make_buffers().current("self")
    view = array[1, :3]
    assert view.flags.c_contiguous
    assert np.shares_memory(view, array)
