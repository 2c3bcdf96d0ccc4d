"""Which sizes a step is run at where every size costs a captured graph. Pure arithmetic.

A captured CUDA graph has fixed shapes, fixed addresses and fixed scalars. So a step is run for the next of a few row
counts, with rows of padding behind the real ones, and for the next of a few candidate counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from seqserve_server.capacity import power_of_two

# Greedy asks for 2 (one may be an end token that may not come yet), beams for twice their number, draws for their
# top-k.
CANDIDATES = (2, 8, 32, 128)
EAGER = -1  # ``gpu_graph_id`` of a step that is neither captured nor replayed; also where nothing can be captured
FIRST_GRAPH = 1  # 0 is the runtime's own
# Sizes grow by powers of two and rarely, so that this is never met but by a byte budget that makes them swing.
MOST_GRAPHS = 512


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a captured graph is fixed to, besides the memory that it was captured over.

    Attributes:
        rows: Of the step, those of padding included; as many places.
        candidates: How many best tokens come back per row.
        phase: Which of two buffers replaced states are read from.
    """

    rows: int
    candidates: int
    phase: int = 0


@dataclass(frozen=True, slots=True)
class RowBuckets:
    """The sizes of steps, for at most ``max_rows`` rows over ``vocabulary`` tokens."""

    max_rows: int
    vocabulary: int

    def rows(self, wanted: int) -> int:
        """The bucket of so many rows: the next power of two, or all rows.

        Raises:
            IndexError: more rows than there may be.
        """
        if not 1 <= wanted <= self.max_rows:
            raise IndexError(f"a step over {wanted} rows: there are 1 to {self.max_rows}")
        return min(power_of_two(wanted, 1), self.max_rows)

    def candidates(self, wanted: int) -> int | None:
        """The bucket of so many candidates; None where such a step is run as it is asked for, and not captured."""
        wanted = min(wanted, self.vocabulary)
        fitting = next((count for count in CANDIDATES if count >= wanted), None)
        return None if fitting is None else min(fitting, self.vocabulary)

    def all_rows(self) -> list[int]:
        """Every row bucket, ascending."""
        return sorted({self.rows(wanted) for wanted in self._powers()})

    def all_candidates(self) -> list[int]:
        """Every candidate bucket, ascending."""
        return sorted({min(count, self.vocabulary) for count in CANDIDATES})

    def _powers(self) -> Iterator[int]:
        size = 1
        while size < self.max_rows:
            yield size
            size *= 2
        yield self.max_rows


class GraphNumbers:
    """Gives captured graphs their numbers. A number stands for one shape over one generation of memory, for ever."""

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        """Give at most so many; the runtime forgets no graph, so that what comes later runs eagerly."""
        self._most = most
        self._given: dict[StepShape, int] = {}
        self._next = FIRST_GRAPH

    def __len__(self) -> int:
        """Numbers that stand for a graph over the memory of now."""
        return len(self._given)

    def forget(self) -> None:
        """The memory is another: what was captured must never be replayed."""
        self._given.clear()

    def number(self, shape: StepShape | None) -> int:
        """The number under which a step of this shape is captured and replayed; ``EAGER`` for None."""
        if shape is None:
            return EAGER
        if shape not in self._given:
            if self._next >= FIRST_GRAPH + self._most:
                return EAGER
            self._given[shape] = self._next
            self._next += 1
        return self._given[shape]
