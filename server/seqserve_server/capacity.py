"""How large the state buffers must be, and what they cost. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqserve.bundle import StateTensor

ROW_FLOOR = 8
LENGTH_FLOOR = 32


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sizes of the state buffers: rows, target positions and source positions of each."""

    rows: int
    target: int
    source: int

    def holds(self, need: "Capacity") -> bool:
        """Whether every size is at least the needed one."""
        return self.rows >= need.rows and self.target >= need.target and self.source >= need.source

    def rounded(self) -> "Capacity":
        """Each size up to a power of two, not below a floor: growth is rare and the kernels see few sizes."""
        return Capacity(
            power_of_two(self.rows, ROW_FLOOR),
            power_of_two(self.target, LENGTH_FLOOR),
            power_of_two(self.source, LENGTH_FLOOR),
        )

    def union(self, other: "Capacity") -> "Capacity":
        """The larger of both, size by size."""
        return Capacity(
            max(self.rows, other.rows), max(self.target, other.target), max(self.source, other.source)
        )


@dataclass(frozen=True, slots=True)
class StateCost:
    """Bytes of one row's state: a fixed part, and per position of the target and of the source."""

    fixed: int
    per_target: int
    per_source: int

    @classmethod
    def of(cls, states: Sequence[StateTensor]) -> "StateCost":
        """Sum over the declared states."""
        def total(length: str) -> int:
            return sum(state.unit_bytes for state in states if state.length == length)

        return cls(total("fixed"), total("target"), total("source"))

    def bytes_of(self, capacity: Capacity) -> int:
        """Bytes of buffers of this capacity."""
        return capacity.rows * (
            self.fixed + self.per_target * capacity.target + self.per_source * capacity.source
        )


def power_of_two(size: int, floor: int) -> int:
    """The smallest power of two that is at least ``size`` and ``floor``."""
    return 1 << (max(size, floor, 1) - 1).bit_length()


def grown(current: Capacity, need: Capacity, cost: StateCost, budget: int) -> Capacity:
    """The capacity to reallocate to when ``current`` does not hold ``need``.

    Sizes only grow while the budget allows it; otherwise those that are larger than needed shrink. The scheduler admits
    no request whose rounded need is over the budget, so the result always fits.
    """
    wanted = current.union(need).rounded()
    return wanted if cost.bytes_of(wanted) <= budget else need.rounded()


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one scheduler.

    Attributes:
        max_rows: Most rows that run at once.
        encode_tokens: Most source tokens encoded between two decoder steps (a longer source goes alone): the bound on
            how long arrivals can hold up running rows.
        cache_bytes: Most bytes of state buffers.
        cost: What a row's state costs.
    """

    max_rows: int
    encode_tokens: int
    cache_bytes: int
    cost: StateCost

    def fits(self, need: Capacity) -> bool:
        """Whether buffers for ``need`` stay inside the byte budget."""
        return self.cost.bytes_of(need.rounded()) <= self.cache_bytes
