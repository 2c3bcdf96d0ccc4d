"""How large buffers are, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve.bundle import StateTensor
from seqserve_server.capacity import Capacity, StateCost, grown, power_of_two

sizes = st.integers(0, 5000)
capacities = st.builds(Capacity, sizes, sizes, sizes)
COST = StateCost(fixed=100, per_target=8, per_source=2)


@pytest.mark.parametrize(("size", "floor", "expected"), [
    (0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 4), (8, 8, 8), (9, 8, 16), (1, 32, 32), (1024, 32, 1024), (1025, 32, 2048),
])
def test_sizes_go_up_to_powers_of_two(size: int, floor: int, expected: int) -> None:
    assert power_of_two(size, floor) == expected


def test_a_cost_sums_states_by_what_they_grow_with() -> None:
    states = [
        StateTensor("self", 4, (2, "length", 8), "float32", "row", "target", "append"),
        StateTensor("cross", 4, (2, "length", 8), "float16", "request", "source", "constant"),
        StateTensor("hidden", 3, (16,), "float32", "row", "fixed", "replace"),
    ]
    assert StateCost.of(states) == StateCost(fixed=2 * 3 * 16 * 4, per_target=4 * 16 * 4, per_source=4 * 16 * 2)


def test_bytes_of_a_capacity() -> None:
    assert COST.bytes_of(Capacity(3, 10, 20)) == 3 * (100 + 80 + 40)
    assert COST.bytes_of(Capacity(0, 10, 20)) == 0


def test_buffers_grow_to_the_union_of_what_they_hold_and_what_is_needed() -> None:
    assert grown(Capacity(8, 64, 32), Capacity(9, 10, 40), COST, 1 << 30) == Capacity(16, 64, 64)


def test_over_the_budget_what_is_larger_than_needed_shrinks() -> None:
    need = Capacity(64, 30, 30)
    budget = COST.bytes_of(need.rounded())
    assert grown(Capacity(8, 2048, 32), need, COST, budget) == Capacity(64, 32, 32)


@given(capacities, capacities, st.integers(0, 1 << 24))
def test_growth_holds_the_need_and_stays_inside_a_budget_that_admits_the_need(
    current: Capacity, need: Capacity, budget: int
) -> None:
    result = grown(current, need, COST, budget)
    assert result.holds(need)
    assert result == result.rounded()
    if COST.bytes_of(need.rounded()) <= budget:
        assert COST.bytes_of(result) <= budget


@given(capacities, capacities)
def test_a_union_holds_both(one: Capacity, other: Capacity) -> None:
    assert one.union(other).holds(one)
    assert one.union(other).holds(other)
    assert one.union(other) == other.union(one)
