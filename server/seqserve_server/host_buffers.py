"""State buffers of this process, edited by one call of the compiled library where there is one.

Every step of a busy server zeroes and carries parts of some requests' state. By numpy that is dozens of small
assignments, and each lets go of the interpreter's lock and then waits for whoever took it: on two cores a step of a
small model spent a quarter of its time so. One call keeps the lock for as long as the memory takes, or, where there is
much to do, lets go of it once.
"""

import ctypes
import math
from array import array
from collections.abc import Sequence
from functools import cache

from seqserve.bundle import StateTensor
from seqserve_server.engine import Source
from seqserve_server.kernels import compiled_library
from seqserve_server.state_buffers import ROWS, UNUSED, Array, Edit, NumpyMemory, StateBuffers

KEPT_BYTES = 1 << 22  # up to so many the lock is kept: less than half a millisecond
_FIELDS = 9  # of a region in server/native/moves.c


class HostBuffers(StateBuffers[Array]):
    """In numpy's arrays."""

    def __init__(
        self, states: Sequence[StateTensor], budget: int, widths: Sequence[int], *, compiled: bool = True
    ) -> None:
        """As ``StateBuffers``; ``compiled`` False does without the library, with the same results."""
        super().__init__(states, budget, widths, NumpyMemory())
        self._table: tuple[int, int] | None = None  # what the regions below were made for
        self._regions = array("q")
        self._groups: dict[tuple[int, bool], tuple[int, int, int]] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._compiled = compiled and _functions() is not None

    def _edit(self, edits: Sequence[Edit]) -> None:
        functions = _functions() if self._compiled else None
        if functions is None:
            super()._edit(edits)
            return
        if self._table != (self.generation, self.phase):
            self._describe()
        flat, size = array("q"), 0
        for scope, destination, source, start, end in edits:
            first, regions, bytes_each = self._groups[scope, source == UNUSED]
            flat.extend((first, regions, destination, first, source, start, end, start))
            size += bytes_each * (end - start)  # of a position; a fixed state counts as much for each
        wrong = functions[size > KEPT_BYTES](self._regions.buffer_info()[0], flat.buffer_info()[0], len(edits))
        if wrong >= 0:
            raise IndexError(f"{edits[wrong]} is outside {self.capacity}")

    def write_source(self, name: str, source: Source, values: Array) -> None:
        """Put what the encoder computed for one source [count, *shape] where it belongs."""
        state, functions = self.states[name], _functions() if self._compiled else None
        given = None if functions is None or state.scope == "row" else _region_of(state, values)
        if functions is None or given is None:
            super().write_source(name, source, values)
            return
        if self._table != (self.generation, self.phase):
            self._describe()
        edit, table, last = functions[values.nbytes > KEPT_BYTES], self._regions + given, len(self._regions) // _FIELDS
        length = 0 if state.length_axis is None else values.shape[1 + state.length_axis]
        for place in source.places:
            number = self._numbers[name, place.width]
            flat = array("q", (number, 1, place.index, last, 0, 0, length, 0))
            if edit(table.buffer_info()[0], flat.buffer_info()[0], 1) >= 0:
                raise IndexError(f"a source of {length} tokens at {place} is outside {self.capacity}")

    def _describe(self) -> None:
        """Regions of every group that an edit may name: rows to be zeroed, rows to be carried, places of each width."""
        self._table, self._regions = (self.generation, self.phase), array("q")
        self._groups, self._numbers = {}, {}
        for scope in (ROWS, *range(len(self.capacity.places))):
            for zeroed in (False, True):
                arrays = [
                    (state, part) for state in self.states.values() if (state.scope == "row") == (scope == ROWS)
                    for part in self._edited(state, Edit(scope, 0, UNUSED if zeroed else 0, 0, 0))
                ]
                first = len(self._regions) // _FIELDS
                size = 0
                for number, (state, part) in enumerate(arrays, first):
                    region = _held_region(state, part)
                    self._regions.extend(region)
                    self._numbers[state.name, scope] = number
                    size += region[1] * region[5] * region[8]
                self._groups[scope, zeroed] = first, len(arrays), size


def _held_region(state: StateTensor, held: Array) -> Sequence[int]:
    """Of an array [count, indices, *shape] of this object's own, which has no gaps and may have no index."""
    axis, (count, indices, *shape) = state.length_axis, held.shape
    inner = math.prod(shape if axis is None else shape[axis + 1 :]) * held.itemsize
    outer, positions = (1, 1) if axis is None else (math.prod(shape[:axis]), shape[axis])
    index_stride = outer * positions * inner
    return (
        held.ctypes.data, count, indices * index_stride, indices, index_stride, outer, positions * inner,
        -1 if axis is None else positions, inner,
    )


def _region_of(state: StateTensor, values: Array) -> "array[int] | None":
    """Of [count, *shape]: the fields of a region in server/native/moves.c; None where it is not of that form."""
    axis = state.length_axis
    if axis is not None and axis > 1:
        return None
    leading = 1 if axis is None else 2 + axis
    position = values[(0,) * leading]
    if not position.flags.c_contiguous or (axis is not None and values.strides[1 + axis] != position.nbytes):
        return None
    outer, outer_stride = (values.shape[1], values.strides[1]) if axis == 1 else (1, 0)
    return array("q", (
        values.ctypes.data, values.shape[0], values.strides[0], 1, 0, outer, outer_stride,
        -1 if axis is None else values.shape[1 + axis], position.nbytes,
    ))


@cache
def _functions() -> tuple["ctypes._FuncPointer", "ctypes._FuncPointer"] | None:
    """The library's, called with the interpreter's lock held, and without."""
    path = compiled_library()
    if path is None:
        return None
    found = []
    for library in (ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))):
        function = library.seqserve_edit
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = ctypes.c_int64
        found.append(function)
    return found[0], found[1]
