"""Schedules: seeded, with the rate and spread that they claim, and exactly dealt out to processes."""

import heapq
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client.arrivals import Share, arrival_offsets


def test_the_schedule_depends_on_the_seed_alone() -> None:
    first = list(arrival_offsets(7, 10.0, 50))
    assert first == list(arrival_offsets(7, 10.0, 50))
    assert first[:20] == list(arrival_offsets(7, 10.0, 20))
    assert first != list(arrival_offsets(8, 10.0, 50))
    assert list(arrival_offsets(7, 20.0, 50)) == pytest.approx([offset / 2 for offset in first])
    assert first == sorted(first)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_rate_and_the_spread_of_their_burstiness(burstiness: float) -> None:
    offsets = list(arrival_offsets(1, 50.0, 20_000, burstiness=burstiness))
    gaps = [after - before for before, after in itertools.pairwise([0.0, *offsets])]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation / mean == pytest.approx(burstiness**-0.5, rel=0.04)


def test_a_duration_ends_the_schedule_and_an_infinite_rate_sends_all_at_once() -> None:
    offsets = list(arrival_offsets(3, 100.0, None, duration=2.0))
    assert offsets
    assert max(offsets) < 2.0
    assert list(arrival_offsets(3, math.inf, 3)) == [0.0, 0.0, 0.0]


def test_the_rate_of_a_ramp_grows_in_proportion_to_the_time() -> None:
    offsets = list(arrival_offsets(2, 1000.0, None, duration=10.0, ramp=10.0))
    per_second = [sum(second <= offset < second + 1 for offset in offsets) for second in range(20)]
    # Expected: 50, 150, ... 950 in the seconds of the ramp, then 1000 each; deviations are square roots.
    for second, count in enumerate(per_second):
        expected = 1000 if second >= 10 else 100 * second + 50
        assert abs(count - expected) < 4 * math.sqrt(expected)


def test_requests_of_the_ramp_come_on_top_of_the_count() -> None:
    offsets = list(arrival_offsets(5, 20.0, 30, ramp=4.0))
    assert sum(offset >= 4.0 for offset in offsets) == 30
    assert 20 < sum(offset < 4.0 for offset in offsets) < 60  # 40 are expected
    assert offsets == sorted(offsets)


@given(
    st.integers(1, 9), st.integers(0, 2**32), st.floats(0.5, 500), st.integers(0, 200), st.sampled_from([0.0, 1.5]),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_union_of_all_shares_is_exactly_the_schedule_of_one_process(
    processes: int, seed: int, rate: float, count: int, ramp: float, burstiness: float
) -> None:
    def schedule() -> list[float]:
        return list(arrival_offsets(seed, rate, count, burstiness=burstiness, ramp=ramp))

    shares = [list(Share(index, processes).offsets(iter(schedule()))) for index in range(processes)]
    assert list(heapq.merge(*shares)) == list(enumerate(schedule()))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 20), st.integers(0, 1000))
def test_parts_of_a_total_add_up_and_are_nearly_equal(processes: int, total: int) -> None:
    parts = [Share(index, processes).part(total) for index in range(processes)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_endless_numbers_are_dealt_out_in_turn() -> None:
    assert list(itertools.islice(Share(1, 3).numbers(), 4)) == [1, 4, 7, 10]
    for index, count in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(ValueError, match="share"):
            Share(index, count)
