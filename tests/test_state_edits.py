"""What the compiled library does to state in one call is, bit for bit, what numpy does in many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from held_states import arrays, copies, fill, make_buffers, same
from seqserve.bundle import StateTensor
from seqserve_server.engine import Changes, PlaceMove, PlaceRelease, RowCopy, RowMove, RowRelease
from seqserve_server.host_buffers import KEPT_BYTES
from seqserve_server.kernels import compiled_library
from seqserve_server.placement import Place

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="no compiled library in this installation")


def row_moves() -> st.SearchStrategy[Changes]:
    """Of the 8 rows and the places of ``HELD``, lengths beyond the capacity of 32 among them."""
    length, row, width = st.integers(0, 40), st.integers(0, 7), st.sampled_from([(0, 8), (1, 2), (2, 1)])
    place = width.flatmap(lambda w: st.builds(Place, st.just(w[0]), st.integers(0, w[1] - 1)))
    both = width.flatmap(lambda w: st.builds(
        lambda one, other, n: PlaceMove(Place(w[0], one), Place(w[0], other), n),
        st.integers(0, w[1] - 1), st.integers(0, w[1] - 1), length,
    ))
    return st.builds(
        Changes, st.lists(st.builds(RowRelease, row, length), max_size=4),
        st.lists(st.builds(PlaceRelease, place, length), max_size=4),
        st.lists(st.builds(RowMove, row, row, length).filter(lambda m: m.source != m.destination), max_size=4),
        st.lists(both.filter(lambda m: m.source != m.destination), max_size=4),
    )


@given(
    steps=st.lists(st.tuples(row_moves(), st.lists(
        st.builds(RowCopy, st.integers(0, 7), st.integers(0, 7), st.integers(0, 10), st.integers(10, 40)).filter(
            lambda entry: entry.source != entry.destination
        ), max_size=4,
    ), st.booleans()), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_the_library_leaves_the_very_bits_that_numpy_does(
    steps: list[tuple[Changes, list[RowCopy], bool]], seed: int
) -> None:
    both = [make_buffers(compiled=compiled) for compiled in (False, True)]
    for buffers in both:
        fill(buffers, seed)
    for changes, copied, advance in steps:
        for buffers in both:
            buffers.change(changes)
            buffers.copy(copied)
            if advance:
                buffers.advance()
        one, other = map(arrays, both)
        assert all(same(one[name], other[name]) for name in one)


def test_much_at_once_is_done_without_the_lock_and_comes_to_the_same() -> None:
    large = StateTensor("self", 2, (3, "length", 16384), "float32", "row", "target", "append")
    one, other = (make_buffers(1 << 29, (large,), compiled=compiled) for compiled in (False, True))
    for buffers in (one, other):
        buffers.current("self")[...] = np.arange(buffers.current("self").size).reshape(buffers.current("self").shape)
        buffers.change(Changes(move_rows=[RowMove(3, 1, 32)]))
    assert KEPT_BYTES < 2 * 3 * 16384 * 4 * 32
    assert same(one.current("self"), other.current("self"))


@pytest.mark.parametrize("changes", [
    Changes(release_rows=[RowRelease(8, 3)]), Changes(move_rows=[RowMove(9, 1, 3)]),
    Changes(release_places=[PlaceRelease(Place(1, 2), 3)]),
])
def test_an_index_outside_is_refused_before_anything_is_done(changes: Changes) -> None:
    buffers = make_buffers()
    fill(buffers)
    before = copies(buffers)
    with pytest.raises(IndexError):
        buffers.change(changes)
    assert all(same(array, before[name]) for name, array in arrays(buffers).items())
