"""How large the state buffers must be, and what they cost. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqserve.bundle import StateTensor

ROW_FLOOR = 8
LENGTH_FLOOR = 32
SINGLE = (1,)  # widths of a graph in which every row has a place of its own


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sizes of the state buffers.

    Attributes:
        rows: Hypotheses.
        target, source: Positions of each row's target, and of each place's source.
        places: Number of places for sources, one entry per width of the graph (:mod:`.placement`).
    """

    rows: int
    target: int
    source: int
    places: tuple[int, ...]

    def holds(self, need: "Capacity") -> bool:
        """Whether every size is at least the needed one."""
        return all(have >= wanted for have, wanted in zip(self._sizes(), need._sizes(), strict=True))

    def rounded(self) -> "Capacity":
        """Each size up to a power of two, not below a floor: growth is rare and the kernels see few sizes."""
        return Capacity(
            power_of_two(self.rows, ROW_FLOOR),
            power_of_two(self.target, LENGTH_FLOOR),
            power_of_two(self.source, LENGTH_FLOOR),
            # Of the wide places there may be none; of the narrow ones there are as many as rows where nobody has beams.
            tuple(power_of_two(count, 1 if index else ROW_FLOOR) if count else 0
                  for index, count in enumerate(self.places)),
        )

    def union(self, other: "Capacity") -> "Capacity":
        """The larger of both, size by size."""
        rows, target, source, *places = (
            max(one, two) for one, two in zip(self._sizes(), other._sizes(), strict=True)
        )
        return Capacity(rows, target, source, tuple(places))

    def beside(self, other: "Capacity") -> "Capacity":
        """For both at once: rows and places add up, of lengths the larger counts."""
        return Capacity(
            self.rows + other.rows, max(self.target, other.target), max(self.source, other.source),
            tuple(one + two for one, two in zip(self.places, other.places, strict=True)),
        )

    def intersection(self, other: "Capacity") -> "Capacity":
        """The smaller of both, size by size."""
        rows, target, source, *places = (
            min(one, two) for one, two in zip(self._sizes(), other._sizes(), strict=True)
        )
        return Capacity(rows, target, source, tuple(places))

    def _sizes(self) -> tuple[int, ...]:
        return (self.rows, self.target, self.source, *self.places)

    @classmethod
    def none(cls, widths: Sequence[int]) -> "Capacity":
        """Of no buffers at all, for a graph with these widths."""
        return cls(0, 0, 0, (0,) * len(widths))


@dataclass(frozen=True, slots=True)
class UnitCost:
    """Bytes of one row's or one place's state: a fixed part, and per position of the target and of the source."""

    fixed: int = 0
    per_target: int = 0
    per_source: int = 0

    def of(self, target: int, source: int) -> int:
        """Bytes for so many positions."""
        return self.fixed + self.per_target * target + self.per_source * source


@dataclass(frozen=True, slots=True)
class StateCost:
    """What the states cost that a row has, and those that the rows of a request share."""

    row: UnitCost
    place: UnitCost = field(default_factory=UnitCost)

    @classmethod
    def of(cls, states: Sequence[StateTensor]) -> "StateCost":
        """Sum over the declared states."""
        def total(scope: str, length: str) -> int:
            return sum(state.unit_bytes for state in states if (state.scope, state.length) == (scope, length))

        return cls(*(
            UnitCost(total(scope, "fixed"), total(scope, "target"), total(scope, "source"))
            for scope in ("row", "request")
        ))

    def bytes_of(self, capacity: Capacity) -> int:
        """Bytes of buffers of this capacity."""
        target, source = capacity.target, capacity.source
        return capacity.rows * self.row.of(target, source) + sum(capacity.places) * self.place.of(target, source)


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
        encode_tokens: Most source tokens encoded between two decoder steps (a longer source goes alone), or pairs that
            cost as much scored: the bound on how long arrivals can hold up running rows.
        cache_bytes: Most bytes of state buffers.
        cost: What the state of rows and places costs.
        widths: Of the graph's places, ascending; the first is 1.
        beams: Whether a request may have several rows: in some graphs row i reads place i, and no other.
    """

    max_rows: int
    encode_tokens: int
    cache_bytes: int
    cost: StateCost
    widths: tuple[int, ...] = SINGLE
    beams: bool = True

    def fits(self, need: Capacity) -> bool:
        """Whether buffers for ``need`` stay inside the byte budget."""
        return self.cost.bytes_of(need.rounded()) <= self.cache_bytes
