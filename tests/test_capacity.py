"""How large buffers are, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve.bundle import StateTensor
from seqserve_server.capacity import Capacity, StateCost, UnitCost, grown, power_of_two

sizes = st.integers(0, 5000)
capacities = st.builds(Capacity, sizes, sizes, sizes, st.tuples(sizes, sizes, sizes))
COST = StateCost(UnitCost(fixed=100, per_target=8, per_source=1), UnitCost(fixed=10, per_source=2))


@pytest.mark.parametrize(("size", "floor", "expected"), [
    (0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 4), (8, 8, 8), (9, 8, 16), (1, 32, 32), (1024, 32, 1024), (1025, 32, 2048),
])
def test_sizes_go_up_to_powers_of_two(size: int, floor: int, expected: int) -> None:
    assert power_of_two(size, floor) == expected


@pytest.mark.parametrize(("places", "expected"), [
    ((0, 0, 0), (0, 0, 0)), ((1, 1, 1), (8, 1, 1)), ((9, 3, 0), (16, 4, 0)), ((0, 5, 2), (0, 8, 2)),
])
def test_wide_places_are_as_few_as_can_be_and_there_are_none_where_none_is_used(
    places: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert Capacity(1, 1, 1, places).rounded() == Capacity(8, 32, 32, expected)


def test_what_runs_together_adds_up_and_shares_the_longest() -> None:
    assert Capacity(1, 7, 30, (1, 0, 0)).beside(Capacity(4, 9, 20, (0, 1, 0))) == Capacity(5, 9, 30, (1, 1, 0))


def test_a_cost_sums_states_by_whose_they_are_and_what_they_grow_with() -> None:
    states = [
        StateTensor("self", 4, (2, "length", 8), "float32", "row", "target", "append"),
        StateTensor("cross", 4, (2, "length", 8), "float16", "request", "source", "constant"),
        StateTensor("hidden", 3, (16,), "float32", "row", "fixed", "replace"),
        StateTensor("context", 1, (5,), "float32", "request", "fixed", "constant"),
    ]
    assert StateCost.of(states) == StateCost(
        UnitCost(fixed=2 * 3 * 16 * 4, per_target=4 * 16 * 4), UnitCost(fixed=5 * 4, per_source=4 * 16 * 2)
    )


def test_bytes_of_a_capacity_are_those_of_its_rows_and_of_its_places() -> None:
    assert COST.bytes_of(Capacity(3, 10, 20, (0, 0))) == 3 * (100 + 80 + 20)
    assert COST.bytes_of(Capacity(0, 10, 20, (2, 3))) == 5 * (10 + 40), "a place costs the same whatever its width"
    assert COST.bytes_of(Capacity(3, 10, 20, (2, 3))) == 3 * 200 + 5 * 50
    assert COST.bytes_of(Capacity.none((1, 4))) == 0


def test_buffers_grow_to_the_union_of_what_they_hold_and_what_is_needed() -> None:
    current, need = Capacity(8, 64, 32, (8, 0, 1)), Capacity(9, 10, 40, (2, 3, 0))
    assert grown(current, need, COST, 1 << 30) == Capacity(16, 64, 64, (8, 4, 1))


def test_over_the_budget_what_is_larger_than_needed_shrinks() -> None:
    need = Capacity(64, 30, 30, (2, 16, 0))
    budget = COST.bytes_of(need.rounded())
    assert grown(Capacity(8, 2048, 32, (8, 1, 4)), need, COST, budget) == Capacity(64, 32, 32, (8, 16, 0))


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
def test_a_union_holds_both_and_both_hold_the_intersection(one: Capacity, other: Capacity) -> None:
    assert one.union(other).holds(one)
    assert one.union(other).holds(other)
    assert one.union(other) == other.union(one)
    assert one.holds(one.intersection(other))
    assert other.holds(one.intersection(other))
    assert one.intersection(other) == other.intersection(one)
    assert one.union(one) == one.intersection(one) == one


@pytest.mark.parametrize("larger", [
    Capacity(9, 64, 32, (8, 1)), Capacity(8, 65, 32, (8, 1)), Capacity(8, 64, 33, (8, 1)), Capacity(8, 64, 32, (9, 1)),
    Capacity(8, 64, 32, (8, 2)),
])
def test_what_is_larger_in_any_size_is_not_held(larger: Capacity) -> None:
    capacity = Capacity(8, 64, 32, (8, 1))
    assert capacity.holds(capacity)
    assert not capacity.holds(larger)
    assert larger.holds(capacity)
