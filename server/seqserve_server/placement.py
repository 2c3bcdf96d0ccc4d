"""Where rows and sources lie. An index into a buffer is held while in use; those in use are kept at 0 .. n-1.

A row is one hypothesis: it has self-attention's keys and values. A place holds what the encoder made of a source, and
is read by one or several rows of one request. The graph offers places of a few widths; a request takes the narrowest
into which its rows fit, and several of the widest where none does: a source is stored once for up to that many beams.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source lies: the index of its width, and the index among the places of that width."""

    width: int
    index: int


@dataclass(frozen=True, slots=True)
class Shift:
    """An owner was moved to a lower index."""

    source: int
    destination: int


class Space(Generic[Owner]):
    """Indices and who holds them. Freed ones are holes until somebody takes them or ``compact`` closes them."""

    def __init__(self) -> None:
        self._owners: list[Owner | None] = []
        self._holes = 0

    def __len__(self) -> int:
        """Indices from 0 to the last that is held, holes included."""
        return len(self._owners)

    def __iter__(self) -> Iterator[Owner]:
        """Owners in the order of their indices."""
        return (owner for owner in self._owners if owner is not None)

    def take(self, owner: Owner) -> int:
        """Hold the lowest free index."""
        if not self._holes:
            self._owners.append(owner)
            return len(self._owners) - 1
        self._holes -= 1
        index = self._owners.index(None)
        self._owners[index] = owner
        return index

    def free(self, index: int) -> None:
        """Leave a hole."""
        if self._owners[index] is None:
            raise AssertionError(f"index {index} was free already")
        self._owners[index] = None
        self._holes += 1

    def compact(self) -> list[tuple[Owner, Shift]]:
        """Fill holes with owners from the end; tells whom it moved."""
        shifts: list[tuple[Owner, Shift]] = []
        owners, hole = self._owners, 0
        while self._holes:
            if owners[-1] is None:
                owners.pop()
                self._holes -= 1
                continue
            hole = owners.index(None, hole)
            owner = owners.pop()
            if owner is None:
                raise AssertionError("the last owner was just seen to be there")
            owners[hole] = owner
            self._holes -= 1
            shifts.append((owner, Shift(len(owners), hole)))
        return shifts


def widths_for(rows: int, widths: Sequence[int]) -> list[int]:
    """Indices into ``widths`` of the places that a request with so many rows takes, the last perhaps not full."""
    widest = len(widths) - 1
    places = [widest] * (rows // widths[widest])
    if rest := rows % widths[widest]:
        places.append(next(index for index, width in enumerate(widths) if width >= rest))
    return places
