"""The sizes of captured steps: few, never too small, never beyond what there is, and no number twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.capacity import power_of_two
from seqserve_server.row_buckets import CANDIDATES, EAGER, FIRST_GRAPH, GraphNumbers, RowBuckets, StepShape

MOST = st.integers(1, 4096)
WORDS = st.integers(1, 300000)


@given(st.data(), MOST, WORDS)
def test_a_bucket_holds_what_is_asked_and_is_less_than_twice_that(data: st.DataObject, most: int, words: int) -> None:
    buckets = RowBuckets(most, words)
    wanted = data.draw(st.integers(1, most))
    rows = buckets.rows(wanted)
    assert wanted <= rows <= most
    assert rows < 2 * wanted
    assert rows <= power_of_two(wanted, 1), "so that buffers which grow by powers of two always hold it"
    assert rows in buckets.all_rows()
    assert buckets.rows(rows) == rows


@given(MOST, WORDS)
def test_there_are_few_buckets(most: int, words: int) -> None:
    buckets = RowBuckets(most, words)
    assert len(buckets.all_rows()) <= 13
    assert buckets.all_rows() == sorted(set(buckets.all_rows()))
    assert buckets.all_rows()[0] == 1
    assert buckets.all_rows()[-1] == most
    assert all(1 <= count <= words for count in buckets.all_candidates())


@given(st.integers(1, 1000), WORDS)
def test_candidates_are_never_more_than_the_vocabulary_has_nor_fewer_than_asked(wanted: int, words: int) -> None:
    found = RowBuckets(8, words).candidates(wanted)
    if found is None:
        assert min(wanted, words) > CANDIDATES[-1]
    else:
        assert min(wanted, words) <= found <= words
        assert found in RowBuckets(8, words).all_candidates()


def test_the_buckets_of_the_default_server() -> None:
    buckets = RowBuckets(64, 32000)
    assert buckets.all_rows() == [1, 2, 4, 8, 16, 32, 64]
    assert buckets.all_candidates() == [2, 8, 32, 128]
    assert RowBuckets(48, 3).all_rows() == [1, 2, 4, 8, 16, 32, 48]
    assert RowBuckets(48, 3).all_candidates() == [2, 3]


@pytest.mark.parametrize("wanted", [0, -1, 65])
def test_rows_that_there_are_not_are_refused(wanted: int) -> None:
    with pytest.raises(IndexError, match="1 to 64"):
        RowBuckets(64, 100).rows(wanted)


def test_no_number_is_given_twice_not_even_after_the_memory_changed() -> None:
    numbers = GraphNumbers()
    shapes = [StepShape(rows, count) for rows in (1, 2) for count in (2, 8)]
    first = [numbers.number(shape) for shape in shapes]
    assert first == [numbers.number(shape) for shape in shapes]
    assert len(numbers) == len(set(first)) == 4
    assert min(first) == FIRST_GRAPH
    numbers.forget()
    assert len(numbers) == 0
    assert not set(first) & {numbers.number(shape) for shape in shapes}


def test_what_cannot_be_captured_and_what_comes_too_late_runs_eagerly() -> None:
    numbers = GraphNumbers(most=2)
    assert numbers.number(None) == EAGER
    assert [numbers.number(StepShape(rows, 2)) for rows in (1, 2, 4, 1)] == [1, 2, EAGER, 1]
