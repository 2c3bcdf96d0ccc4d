"""What the step graph of a device is told of sources: their lengths, and which row reads which. Host arrays."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.engine import Changes, Layout
from seqserve_server.placement import Place

Integers = NDArray[np.int32]


class DeviceSources:
    """Fills arrays that cross to the device with every step. There, a step has as many places as rows.

    Rows of padding read the places that no row reads. Those are empty, with a length of 1, or hold the source of a
    request that has fewer hypotheses left than places; what comes of them is for nobody.
    """

    def __init__(self, lengths: Integers, readers: Integers, back: Integers) -> None:
        """All int32 [most rows].

        Args:
            lengths: Of the source in each place.
            readers: Which row reads each place.
            back: Which place each row reads.
        """
        self._lengths, self._readers, self._back = lengths, readers, back
        self._lengths[...] = 1
        self._laid_out: tuple[Layout | None, int] = (None, 0)

    def note(self, places: Sequence[Place], length: int) -> None:
        """A source of so many tokens lies there now."""
        for place in places:
            self._lengths[place.index] = length

    @contextlib.contextmanager
    def apart(self, places: Sequence[int]) -> Iterator[None]:
        """Steps inside have these places as their first ones, and see no others."""
        arrays, laid_out = (self._lengths, self._readers, self._back), self._laid_out
        held = [array.copy() for array in arrays]
        self._lengths[...] = 1
        self._lengths[: len(places)] = held[0][list(places)]
        try:
            yield
        finally:
            for array, values in zip(arrays, held, strict=True):
                array[...] = values
            self._laid_out = laid_out

    def change(self, changes: Changes) -> None:
        """Follow sources that leave or move."""
        for entry in changes.release_places:
            self.note([entry.place], 1)
        for moved in changes.move_places:
            self.note([moved.destination], moved.length)
            self.note([moved.source], 1)

    def lay_out(self, layout: Layout | None, size: int) -> None:
        """Say who reads what in a step of so many rows and places. Costs nothing while the layout is the same.

        Args:
            layout: None for a step of padding alone.
        """
        if layout is not None and self._laid_out[0] is layout and self._laid_out[1] == size:
            return
        taken = np.asarray(layout.places if layout is not None else [], dtype=np.int32)
        free = np.setdiff1d(np.arange(size, dtype=np.int32), taken)
        if len(taken) + len(free) != size:
            raise IndexError(f"{taken.tolist()} are not different places of {size}")
        self._back[: len(taken)], self._back[len(taken) : size] = taken, free
        self._readers[self._back[:size]] = np.arange(size, dtype=np.int32)
        self._laid_out = (layout, size)
