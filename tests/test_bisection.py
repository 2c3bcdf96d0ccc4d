"""Who is at fault: found in few tries, whoever and however many it is."""

import math
import random
from collections.abc import Callable

import pytest

from seqserve_server.bisection import Bisection, Breakdown


def judged(suspects: list[int], fails: Callable[[list[int]], bool]) -> tuple[list[int], list[list[int]]]:
    """The guilty and the parts that were tried."""
    bisection = Bisection(suspects)
    tried = []
    while (part := bisection.next_part()) is not None:
        tried.append(list(part))
        if fails(list(part)):
            bisection.failed(part)
    return bisection.guilty, tried


@pytest.mark.parametrize("seed", range(300))
def test_the_guilty_are_found_and_everybody_else_was_in_a_part_that_went_well(seed: int) -> None:
    rng = random.Random(seed)
    suspects = [rng.randrange(10**6) for _ in range(rng.randint(1, 70))]
    guilty = {each for each in suspects if rng.random() < rng.choice((0.02, 0.3, 1.0))}
    found, tried = judged(suspects, lambda part: not guilty.isdisjoint(part))
    assert found == [each for each in suspects if each in guilty]
    well = [each for part in tried for each in part if guilty.isdisjoint(part)]
    assert sorted(well) == sorted(each for each in suspects if each not in guilty), "each of them just once"
    assert len(tried) <= max(1, 2 * len(suspects) - 2)


@pytest.mark.parametrize("count", [2, 3, 16, 63, 64, 100])
def test_one_guilty_suspect_costs_twice_the_logarithm(count: int) -> None:
    for guilty in range(count):
        found, tried = judged(list(range(count)), lambda part, guilty=guilty: guilty in part)  # type: ignore[misc]
        assert found == [guilty]
        assert len(tried) <= 2 * math.ceil(math.log2(count))


def test_a_fault_that_does_not_come_again_finds_nobody_guilty_not_even_who_was_alone() -> None:
    for suspects in ([7], [1, 2, 3]):
        found, tried = judged(suspects, lambda part: False)
        assert found == []
        assert sorted(each for part in tried for each in part) == suspects


def test_who_is_alone_and_fails_again_is_guilty() -> None:
    assert judged([7], lambda part: True) == ([7], [[7]])


def test_an_engine_is_broken_when_so_many_fail_alone_in_a_row_and_not_before() -> None:
    breakdown = Breakdown(3)
    assert [breakdown.failed_alone() for _ in range(2)] == [False, False]
    breakdown.succeeded()
    assert [breakdown.failed_alone() for _ in range(3)] == [False, False, True]
