"""Counts of a running load test."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client.load_progress import Tally, total
from seqserve_client.report import percentile

SECONDS = st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=50)


@given(SECONDS, st.sampled_from([50.0, 99.0]))
def test_percentiles_so_far_are_at_most_a_bucket_above_the_exact_ones(seconds: list[float], percent: float) -> None:
    tally = Tally()
    for each in seconds:
        tally.end(each, failed=False)
    exact = percentile(sorted(seconds), percent) * 1000
    shown = tally.milliseconds(percent)
    assert shown is not None
    assert exact * (1 - 1e-9) <= shown <= exact * 1.05 * (1 + 1e-9)


@given(SECONDS, SECONDS)
def test_tallies_of_several_processes_add_up_to_that_of_one(first: list[float], second: list[float]) -> None:
    parts, whole = [Tally(sent=len(first)), Tally(sent=len(second))], Tally(sent=len(first) + len(second))
    for part, seconds in zip(parts, (first, second), strict=True):
        for each in seconds:
            part.end(each, failed=each > 50)
            whole.end(each, failed=each > 50)
    assert total(parts) == whole


def test_the_line_shows_what_is_known_so_far() -> None:
    tally = Tally(sent=3)
    assert tally.milliseconds(99) is None
    tally.end(0.0, failed=True)
    assert tally.line(1.25, 0.5) == "   1 s  0.5/s  in flight 2  failed 1  ended 1  sent 3"
    tally.end(0.1, failed=False)
    assert tally.milliseconds(50) == pytest.approx(100, rel=0.05)
    assert tally.line(2.0, 2.0).startswith("   2 s  2.0/s  p50 10")
    assert math.isfinite(tally.milliseconds(99) or math.inf)
