"""What the step graph is told of where rows find their sources. Arrays that the host writes and the graph reads."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.capacity import SINGLE
from seqserve_server.engine import Changes, Layout
from seqserve_server.placement import Place

ROWS_OF = "rows.x"  # begins the names of inputs that only a graph with places of several widths has


def of_width(name: str, width: int) -> str:
    """Name of an input for places of a width."""
    return name if width == 1 else f"{name}.x{width}"


def widths_of(inputs: Iterable[str]) -> tuple[int, ...]:
    """The widths that a step graph with these inputs has places for; (1,) where every row has a source of its own."""
    found = [name.removeprefix(ROWS_OF) for name in inputs if name.startswith(ROWS_OF)]
    return tuple(sorted(int(width) for width in found if width.isdecimal())) or SINGLE


class SourceInputs:
    """Lengths of sources by place, and which rows read them. Inputs are views of arrays that stay where they are."""

    def __init__(self, widths: Sequence[int], most: int) -> None:
        self._widths = widths
        self._lengths = [np.ones(most, dtype=np.int32) for _ in widths]
        self._rows = [np.zeros((most, width), dtype=np.int64) for width in widths]
        self._back = np.zeros(most, dtype=np.int64)
        self._mixed = np.array(False)
        self._used = [np.array(False) for _ in widths]
        self._layout: Layout | None = None
        self._longest = 0

    def inputs(self, rows: int, counts: Sequence[int]) -> dict[str, NDArray[np.generic]]:
        """Arrays by name of input, for so many rows, and so many places of each width."""
        found: dict[str, NDArray[np.generic]] = {
            of_width("source_lengths", width): lengths[:count]
            for width, lengths, count in zip(self._widths, self._lengths, counts, strict=True)
        }
        if len(self._widths) > 1:
            found |= {"mixed": self._mixed, "back": self._back[:rows]}
            for width, used, table, count in zip(self._widths, self._used, self._rows, counts, strict=True):
                found |= {f"used.x{width}": used, f"{ROWS_OF}{width}": table[:count]}
        return found

    def note(self, places: Sequence[Place], length: int) -> None:
        """A source of so many tokens lies there now."""
        for place in places:
            self._lengths[place.width][place.index] = length

    def length(self, place: Place) -> int:
        """Tokens of the source that lies there; 1 where none does."""
        return int(self._lengths[place.width][place.index])

    def change(self, changes: Changes) -> None:
        """Follow sources that leave or move."""
        for entry in changes.release_places:
            self.note([entry.place], 1)
        for moved in changes.move_places:
            self.note([moved.destination], moved.length)
            self.note([moved.source], 1)

    def longest(self) -> int:
        """Tokens of the longest source of the layout."""
        if self._layout is None:
            raise AssertionError("nothing is laid out")
        return self._longest

    def lay_out(self, layout: Layout) -> None:
        """Say which rows read which place. Costs nothing while the layout is the same."""
        if layout is self._layout:
            return
        places, rows = np.asarray(layout.places), np.arange(len(layout.places))
        widths, offsets = np.asarray(layout.widths), np.asarray(layout.offsets)
        self._mixed[...] = bool(widths.any()) or not np.array_equal(places, rows)
        if self._mixed and len(self._widths) == 1:
            raise IndexError("in this graph row i reads the source of place i, and no other")
        self._layout = layout
        # Sources lie where they are laid out before anything is: what arrives brings another layout.
        self._longest = max(
            int(lengths[:count].max()) for lengths, count in zip(self._lengths, layout.counts, strict=True) if count
        )
        start = 0
        for index, (width, count) in enumerate(zip(self._widths, layout.counts, strict=True)):
            here = widths == index
            table = self._rows[index][:count]
            table[...] = 0  # offsets that no row has read row 0, and what comes of it is left
            table[places[here], offsets[here]] = rows[here]
            self._back[: len(rows)][here] = start + places[here] * width + offsets[here]
            self._used[index][...] = count > 0
            start += count * width
