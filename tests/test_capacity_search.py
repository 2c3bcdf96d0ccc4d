"""The search for capacity against servers whose capacity is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client.capacity_search import MOST_TRIES, PRECISION, capacity, is_borne, next_rate


def searched(bears: float, first: float) -> tuple[float | None, int]:
    tried: dict[float, bool] = {}
    while (rate := next_rate(tried, first)) is not None:
        assert rate not in tried
        tried[rate] = rate <= bears
    return capacity(tried), len(tried)


@given(st.floats(10.0, 1000.0), st.floats(1.0, 100.0))
def test_the_search_ends_close_below_what_the_server_bears(bears: float, first: float) -> None:
    found, tries = searched(bears, first)
    assert tries <= MOST_TRIES
    assert found is not None
    assert found <= bears <= found * PRECISION * 1.001


def test_a_server_without_bound_or_without_hope_ends_the_search_too() -> None:
    assert searched(float("inf"), 10.0) == (10.0 * 2 ** (MOST_TRIES - 1), MOST_TRIES)
    assert searched(0.0, 16.0) == (None, 5)  # 16, 8, 4, 2, 1


def test_a_rate_above_one_that_failed_is_not_believed() -> None:
    assert capacity({10.0: True, 20.0: False, 40.0: True}) == 10.0
    assert capacity({10.0: False, 20.0: True}) is None
    assert capacity({}) is None


@pytest.mark.parametrize(("good", "completed", "failed", "borne"), [
    (99, 100, 0, True), (98, 100, 0, False), (99, 99, 1, True), (0, 0, 0, False), (0, 0, 5, False),
])
def test_ninety_nine_in_a_hundred_must_be_good(good: int, completed: int, failed: int, borne: bool) -> None:
    figures = {"completed": completed, "failed": failed, "duration": 7.3, "request_goodput": good / 7.3}
    assert is_borne(figures) is borne
