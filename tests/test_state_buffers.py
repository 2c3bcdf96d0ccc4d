"""Where state lives: values keep their places and their bits, and what is released is zero."""

from collections.abc import Iterator

import numpy as np
import pytest

import held_states
from held_states import CROSS, HELD, SELF, STATES, WIDTHS, arrays, copies, fill, same, spoil
from seqserve.bundle import StateTensor
from seqserve_server.capacity import Capacity, StateCost
from seqserve_server.engine import Changes, PlaceMove, PlaceRelease, RowCopy, RowMove, RowRelease, Source
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.kernels import compiled_library
from seqserve_server.placement import Place
from seqserve_server.state_buffers import Array, StateBuffers

_compiled = False


@pytest.fixture(autouse=True, params=["numpy", "compiled"])
def compiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test twice: without and with the compiled library."""
    if request.param == "compiled" and compiled_library() is None:
        pytest.skip("no compiled library in this installation")
    global _compiled
    _compiled = request.param == "compiled"
    yield
    _compiled = False


def make_buffers(budget: int = 1 << 24, states: tuple[StateTensor, ...] = STATES) -> StateBuffers[Array]:
    return held_states.make_buffers(budget, states, compiled=_compiled)


def test_nothing_is_allocated_before_the_first_reservation() -> None:
    assert HostBuffers(STATES, 1 << 20, WIDTHS).bytes_used == 0


def test_arrays_have_the_declared_shape_at_the_rounded_capacity() -> None:
    buffers = make_buffers()
    assert buffers.capacity == HELD
    assert {name: array.shape for name, array in arrays(buffers).items()} == {
        "self": (2, 8, 3, 32, 4), "hidden": (2, 8, 5),
        "cross.x1": (2, 8, 3, 32, 4), "cross.x4": (2, 2, 3, 32, 4), "cross.x8": (2, 1, 3, 32, 4),
        "context.x1": (1, 8, 6), "context.x4": (1, 2, 6), "context.x8": (1, 1, 6),
    }
    assert buffers.bytes_used == StateCost.of(STATES).bytes_of(buffers.capacity)


def test_a_graph_without_places_has_one_for_each_row() -> None:
    buffers = HostBuffers(STATES, 1 << 20, (1,))
    buffers.reserve(Capacity(3, 5, 6, (3,)))
    assert buffers.capacity == Capacity(8, 32, 32, (8,))
    assert buffers.of_width("cross", 0).shape == (2, 8, 3, 32, 4)


def test_a_capacity_that_holds_the_need_is_left_alone() -> None:
    buffers = make_buffers()
    before, generation = buffers.current("self"), buffers.generation
    buffers.reserve(HELD)
    assert buffers.current("self") is before
    assert buffers.generation == generation


@pytest.mark.parametrize("need", [
    Capacity(9, 1, 1, (0, 0, 0)), Capacity(1, 33, 1, (0, 0, 0)), Capacity(1, 1, 33, (1, 0, 0)),
    Capacity(1, 1, 1, (9, 0, 0)), Capacity(1, 1, 1, (0, 3, 0)), Capacity(1, 1, 1, (0, 0, 5)),
    Capacity(40, 100, 70, (10, 10, 10)),
])
def test_growth_keeps_every_value_at_its_place_and_adds_zeros(need: Capacity) -> None:
    buffers = make_buffers()
    fill(buffers)
    buffers.advance()
    fill(buffers, seed=1)
    before, generation = copies(buffers), buffers.generation
    buffers.reserve(need)
    assert buffers.capacity.holds(need)
    assert buffers.capacity.holds(HELD)
    assert buffers.generation == generation + 1
    for name, after in arrays(buffers).items():
        kept = tuple(slice(0, size) for size in before[name].shape)
        assert same(after[kept], before[name])
        assert np.count_nonzero(after) == np.count_nonzero(before[name])


def test_under_a_tight_budget_sizes_nobody_needs_shrink_and_the_rest_is_kept() -> None:
    cost = StateCost.of(STATES)
    buffers = make_buffers(budget=cost.bytes_of(Capacity(16, 32, 32, (8, 4, 0))))
    buffers.reserve(Capacity(4, 60, 10, (1, 2, 1)))
    assert buffers.capacity == Capacity(8, 64, 32, (8, 2, 1))
    buffers.current("self")[:, 3, :, :20] = 7.0
    buffers.of_width("cross", 1)[:, 1, :, :10] = 8.0
    buffers.of_width("context", 0)[:, 2] = 9.0
    buffers.reserve(Capacity(12, 20, 10, (3, 3, 0)))
    assert buffers.capacity == Capacity(16, 32, 32, (8, 4, 0))
    assert (buffers.current("self")[:, 3, :, :20] == 7.0).all()
    assert (buffers.of_width("cross", 1)[:, 1, :, :10] == 8.0).all()
    assert (buffers.of_width("context", 0)[:, 2] == 9.0).all()
    assert sum(np.count_nonzero(array) for array in arrays(buffers).values()) == 2 * 3 * 20 * 4 + 2 * 3 * 10 * 4 + 6


def test_more_than_the_budget_is_refused_and_nothing_changes() -> None:
    buffers = make_buffers(budget=1 << 17)
    before, capacity = buffers.current("self"), buffers.capacity
    with pytest.raises(MemoryError, match="exceed the budget of 131072"):
        buffers.reserve(Capacity(1000, 1000, 1000, (1000, 0, 0)))
    assert buffers.current("self") is before
    assert buffers.capacity == capacity


def test_a_released_row_is_zero_in_both_of_its_buffers_and_its_neighbours_are_untouched() -> None:
    buffers = make_buffers()
    spoil(buffers)
    buffers.change(Changes(release_rows=[RowRelease(1, 32)]))
    for name in ("self", "hidden"):
        for array in (buffers.current(name), buffers.following(name)):
            assert not array[:, 1].any()
            assert np.isnan(array[:, [0, *range(2, 8)]]).all()
    assert all(np.isnan(array).all() for name, array in arrays(buffers).items() if ".x" in name)


def test_a_released_place_is_zero_and_those_of_other_widths_are_untouched() -> None:
    buffers = make_buffers()
    spoil(buffers)
    buffers.change(Changes(release_places=[PlaceRelease(Place(1, 0), 32)]))
    for name, array in arrays(buffers).items():
        if name in ("cross.x4", "context.x4"):
            assert not array[:, 0].any()
            assert np.isnan(array[:, 1]).all()
        else:
            assert np.isnan(array).all()


def test_only_the_written_part_is_cleared() -> None:
    buffers = make_buffers()
    fill(buffers)
    buffers.change(Changes([RowRelease(2, 5)], [PlaceRelease(Place(0, 2), 7)]))
    assert not buffers.current("self")[:, 2, :, :5].any()
    assert buffers.current("self")[:, 2, :, 5:].all()
    assert not buffers.of_width("cross", 0)[:, 2, :, :7].any()
    assert buffers.of_width("cross", 0)[:, 2, :, 7:].all()


def test_a_moved_row_takes_its_written_part_along_and_leaves_zeros() -> None:
    buffers = make_buffers()
    row = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)
    buffers.current("self")[:, 5, :, :6] = row
    buffers.current("hidden")[:, 5] = 3.0
    buffers.change(Changes(move_rows=[RowMove(5, 1, 6)]))
    assert same(buffers.current("self")[:, 1, :, :6], row)
    assert (buffers.current("hidden")[:, 1] == 3.0).all()
    assert not buffers.current("self")[:, 5].any()
    assert not buffers.current("hidden")[:, 5].any()


def test_a_moved_source_takes_its_written_part_along_and_leaves_zeros() -> None:
    buffers = make_buffers()
    source = np.random.default_rng(0).standard_normal((2, 3, 9, 4)).astype(np.float32)
    buffers.of_width("cross", 1)[:, 1, :, :9] = source
    buffers.of_width("context", 1)[:, 1] = 3.0
    buffers.change(Changes(move_places=[PlaceMove(Place(1, 1), Place(1, 0), 9)]))
    assert same(buffers.of_width("cross", 1)[:, 0, :, :9], source)
    assert (buffers.of_width("context", 1)[:, 0] == 3.0).all()
    assert sum(np.count_nonzero(array) for array in arrays(buffers).values()) == source.size + 6


def test_who_moves_in_finds_the_row_of_who_was_released_empty() -> None:
    buffers = make_buffers()
    fill(buffers)
    row = buffers.current("self")[:, 3].copy()
    buffers.change(Changes([RowRelease(0, 32)], [], [RowMove(3, 0, 4)]))
    assert same(buffers.current("self")[:, 0, :, :4], row[:, :, :4])
    assert not buffers.current("self")[:, 0, :, 4:].any()


def test_a_copy_brings_just_the_positions_it_names() -> None:
    buffers = make_buffers()
    fill(buffers)
    before = copies(buffers)
    buffers.copy([RowCopy(0, 2, 3, 7), RowCopy(0, 3, 0, 7), RowCopy(1, 4, 6, 7)])
    after = arrays(buffers)
    expected = before["self"].copy()
    expected[:, 2, :, 3:7] = before["self"][:, 0, :, 3:7]
    expected[:, 3, :, 0:7] = before["self"][:, 0, :, 0:7]
    expected[:, 4, :, 6:7] = before["self"][:, 1, :, 6:7]
    assert same(after["self"], expected)
    assert same(after["hidden"][:, [2, 3, 4]], before["hidden"][:, [0, 0, 1]]), "without positions: all of it"
    assert same(after["hidden"][:, [0, 1, 5, 6, 7]], before["hidden"][:, [0, 1, 5, 6, 7]])
    assert all(same(array, before[name]) for name, array in after.items() if ".x" in name)


def test_a_copy_is_of_what_the_next_step_reads() -> None:
    buffers = make_buffers()
    fill(buffers)
    buffers.advance()
    buffers.current("hidden")[:, 0] = 5.0
    buffers.copy([RowCopy(0, 1, 0, 1)])
    assert (buffers.current("hidden")[:, 1] == 5.0).all()


def test_appended_states_are_written_where_they_are_read() -> None:
    buffers = make_buffers()
    for _ in range(2):
        assert buffers.following("self") is buffers.current("self")
        buffers.advance()


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


def test_what_the_encoder_computed_goes_into_all_places_of_its_source_or_into_its_row() -> None:
    buffers = make_buffers()
    values = np.arange(2 * 3 * 7 * 4, dtype=np.float32).reshape(2, 3, 7, 4) + 1
    source = Source(3, (Place(2, 0), Place(1, 1)), [5] * 7)
    buffers.write_source("cross", source, values)
    buffers.write_source("hidden", source, np.full((2, 5), 9.0, dtype=np.float32))
    assert same(buffers.of_width("cross", 2)[:, 0, :, :7], values)
    assert same(buffers.of_width("cross", 1)[:, 1, :, :7], values)
    assert (buffers.current("hidden")[:, 3] == 9.0).all()
    assert sum(np.count_nonzero(array) for array in arrays(buffers).values()) == 2 * values.size + 10


def test_a_prefix_of_rows_is_a_contiguous_view_that_can_be_shared_with_a_runtime() -> None:
    array = make_buffers().current("self")
    view = array[1, :3]
    assert view.flags.c_contiguous
    assert np.shares_memory(view, array)
