"""What the step graph is told of sources: how long they are, and which rows read them."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.engine import Changes, Layout, PlaceMove, PlaceRelease
from seqserve_server.placement import Place, widths_for
from seqserve_server.source_inputs import SourceInputs, of_width, widths_of

WIDTHS = (1, 4, 8)
GREEDY = Layout([0, 0, 0], [0, 1, 2], [0, 0, 0], [3, 0, 0])
MIXED = Layout([1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 2, 3], [1, 2, 0])


def made(widths: tuple[int, ...] = WIDTHS) -> SourceInputs:
    return SourceInputs(widths, 16)


def test_inputs_of_width_one_have_no_width_in_their_names() -> None:
    assert [of_width("cross.0", width) for width in WIDTHS] == ["cross.0", "cross.0.x4", "cross.0.x8"]


@pytest.mark.parametrize(("inputs", "expected"), [
    (["tokens", "rows.x8", "rows.x1", "rows.x4", "rows.xy", "used.x2"], (1, 4, 8)), (["tokens", "cross.0"], (1,)),
])
def test_widths_are_read_from_the_names_of_inputs(inputs: list[str], expected: tuple[int, ...]) -> None:
    assert widths_of(inputs) == expected


def test_a_graph_without_places_is_told_lengths_only() -> None:
    sources = made((1,))
    sources.note([Place(0, 1)], 9)
    sources.lay_out(Layout([0, 0], [0, 1], [0, 0], [2]))
    assert {name: array.tolist() for name, array in sources.inputs(2, [2]).items()} == {"source_lengths": [1, 9]}


def test_a_graph_without_places_refuses_other_rows_than_its_own_however_often() -> None:
    sources, crossed = made((1,)), Layout([0, 0], [1, 0], [0, 0], [2])
    for _ in range(2):
        with pytest.raises(IndexError, match="row i reads the source of place i"):
            sources.lay_out(crossed)


def test_rows_that_read_the_places_of_their_own_number_are_not_mixed() -> None:
    sources = made()
    sources.lay_out(GREEDY)
    inputs = sources.inputs(3, GREEDY.counts)
    assert not inputs["mixed"]
    assert [bool(inputs[f"used.x{width}"]) for width in WIDTHS] == [True, False, False]
    sources.lay_out(Layout([0, 0], [1, 0], [0, 0], [2, 0, 0]))
    assert inputs["mixed"], "the array is the same, and its value new"


def test_a_mixed_layout_by_hand() -> None:
    sources = made()
    sources.lay_out(MIXED)
    inputs = {name: array.tolist() for name, array in sources.inputs(4, MIXED.counts).items()}
    assert inputs["mixed"] is True
    assert (inputs["used.x1"], inputs["used.x4"], inputs["used.x8"]) == (True, True, False)
    assert (inputs["rows.x1"], inputs["rows.x4"], inputs["rows.x8"]) == ([[1]], [[0, 0, 0, 3], [0, 0, 2, 0]], [])
    # The one row of width 1 comes first, then four of the first place of width 4, then those of the second.
    assert inputs["back"] == [1, 0, 1 + 4 + 2, 1 + 3]


def test_lengths_follow_sources_that_come_move_and_go() -> None:
    sources = made()
    sources.note([Place(1, 0), Place(0, 0)], 7)
    sources.note([Place(1, 1), Place(2, 0)], 5)
    sources.change(Changes(
        release_places=[PlaceRelease(Place(1, 0), 7), PlaceRelease(Place(2, 0), 5)],
        move_places=[PlaceMove(Place(1, 1), Place(1, 0), 5)],
    ))
    inputs = sources.inputs(0, [1, 2, 1])
    assert [inputs[f"source_lengths{suffix}"].tolist() for suffix in ("", ".x4", ".x8")] == [[7], [5, 1], [1]]


def test_the_longest_source_is_sought_in_places_that_are_in_use() -> None:
    sources = made()
    with pytest.raises(AssertionError, match="nothing is laid out"):
        sources.longest()
    sources.note([Place(1, 1)], 5)
    sources.note([Place(0, 0)], 3)
    sources.note([Place(2, 0)], 99)
    sources.lay_out(MIXED)
    assert sources.longest() == 5


def test_inputs_stay_in_the_same_memory() -> None:
    sources = made()
    before = {name: array.ctypes.data for name, array in sources.inputs(4, [2, 2, 2]).items()}
    sources.lay_out(MIXED)
    sources.note([Place(1, 0)], 3)
    assert {name: array.ctypes.data for name, array in sources.inputs(4, [2, 2, 2]).items()} == before


def test_the_same_layout_again_costs_nothing_and_a_new_one_forgets_the_old() -> None:
    sources = made()
    sources.lay_out(MIXED)
    table = sources.inputs(4, MIXED.counts)["rows.x4"]
    table[0, 3] = 99
    sources.lay_out(MIXED)
    assert table[0, 3] == 99
    sources.lay_out(Layout([1], [0], [1], [0, 1, 0]))
    assert table[0].tolist() == [0, 0, 0, 0]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_what_is_gathered_and_brought_back_is_what_each_row_asked(beams: list[int], random: Random) -> None:
    counts, seats = [0, 0, 0], list[tuple[int, int, int]]()
    for number in beams:
        left = number
        for width in widths_for(number, WIDTHS):
            seats += [(width, counts[width], offset) for offset in range(min(left, WIDTHS[width]))]
            left -= WIDTHS[width]
            counts[width] += 1
    random.shuffle(seats)
    sources = SourceInputs(WIDTHS, len(seats) + 8)
    widths, places, offsets = (list(column) for column in zip(*seats, strict=True))
    sources.lay_out(Layout(widths, places, offsets, counts))
    inputs = sources.inputs(len(seats), counts)
    asked = np.arange(len(seats)) + 100
    of_places = [asked[inputs[f"rows.x{width}"]] for width in WIDTHS]
    for row, (width, place, offset) in enumerate(seats):
        assert of_places[width][place, offset] == asked[row]
    assert (np.concatenate([each.reshape(-1) for each in of_places])[inputs["back"]] == asked).all()
