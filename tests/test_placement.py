"""Where rows and sources lie: lowest free indices, holes closed from the end, places for any number of rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.placement import Shift, Space, widths_for

WIDTHS = (1, 4, 8)


@pytest.mark.parametrize(("rows", "expected"), [
    (1, [0]), (2, [1]), (3, [1]), (4, [1]), (5, [2]), (7, [2]), (8, [2]), (9, [2, 0]), (10, [2, 1]), (12, [2, 1]),
    (13, [2, 2]), (16, [2, 2]), (17, [2, 2, 0]), (32, [2, 2, 2, 2]),
])
def test_a_request_takes_the_widest_places_and_the_narrowest_for_the_rest(rows: int, expected: list[int]) -> None:
    assert widths_for(rows, WIDTHS) == expected


@given(st.integers(1, 100))
def test_where_places_have_one_row_every_row_has_its_own(rows: int) -> None:
    assert widths_for(rows, (1,)) == [0] * rows


@given(st.integers(1, 200), st.sampled_from([(1, 4, 8), (1, 2), (1, 3, 5, 16)]))
def test_places_hold_all_rows_and_only_the_last_is_not_full(rows: int, widths: tuple[int, ...]) -> None:
    sizes = [widths[index] for index in widths_for(rows, widths)]
    assert sum(sizes) >= rows > sum(sizes[:-1])
    assert set(sizes[:-1]) <= {widths[-1]}


def test_the_lowest_free_index_is_taken() -> None:
    space: Space[str] = Space()
    assert [space.take(name) for name in "abcd"] == [0, 1, 2, 3]
    space.free(2)
    space.free(0)
    assert [space.take(name) for name in "ef"] == [0, 2]
    assert list(space) == ["e", "b", "f", "d"]


def test_an_index_is_freed_once() -> None:
    space: Space[str] = Space()
    space.take("a")
    space.free(0)
    with pytest.raises(AssertionError, match="index 0 was free already"):
        space.free(0)


def test_holes_are_closed_from_the_end() -> None:
    space: Space[str] = Space()
    for name in "abcdefg":
        space.take(name)
    for index in (0, 3, 6):
        space.free(index)
    assert len(space) == 7
    assert space.compact() == [("f", Shift(5, 0)), ("e", Shift(4, 3))]
    assert list(space) == ["f", "b", "c", "e"]
    assert len(space) == 4
    assert space.compact() == []


@given(st.lists(st.integers(-1, 20), max_size=60))
def test_after_any_arrivals_and_departures_owners_stand_close_with_as_few_moves_as_can_be(choices: list[int]) -> None:
    space: Space[int] = Space()
    where: dict[int, int] = {}
    for number, choice in enumerate(choices):
        if choice < 0:
            gone = sum(index >= len(where) for index in where.values())
            shifts = space.compact()
            for owner, shift in shifts:
                assert where[owner] == shift.source
                where[owner] = shift.destination
            assert len(shifts) == gone, "only those behind the last index to be are moved"
            assert sorted(where.values()) == list(range(len(where))) == list(range(len(space)))
        elif where and choice % 3 == 0:
            owner = sorted(where)[choice % len(where)]
            space.free(where.pop(owner))
        else:
            where[number] = space.take(number)
        assert set(space) == set(where)
