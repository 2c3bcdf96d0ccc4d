"""Where the state of every row and every place lives: arrays by declared state group, grown by powers of two."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqserve.bundle import LENGTH_AXIS, StateTensor
from seqserve_server.capacity import Capacity, StateCost, grown
from seqserve_server.engine import Changes, RowCopy, Source

Array = NDArray[np.generic]
Index = tuple[slice | int, ...]


class Region(Protocol):
    """What state lies in: numpy's arrays, or a device's (:mod:`.device_memory`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""

    def __getitem__(self, index: Index) -> Any:
        """A part."""


A = TypeVar("A", bound=Region)


class Memory(Protocol[A]):
    """Makes regions and writes parts of them."""

    def allocate(self, shape: Sequence[int], dtype: str) -> A:
        """Zeros."""

    def copy(self, source: A, destination: A) -> None:
        """Between parts of equal shape."""

    def zero(self, array: A) -> None:
        """Write zeros into a part."""


class NumpyMemory:
    """This process's own."""

    def allocate(self, shape: Sequence[int], dtype: str) -> Array:
        """Zeros."""
        return np.zeros(shape, dtype=dtype)

    def copy(self, source: Array, destination: Array) -> None:
        """Assign."""
        destination[...] = source

    def zero(self, array: Array) -> None:
        """Assign."""
        array[...] = 0


ROWS = -1  # the scope of an edit, in place of a width
UNUSED = -1  # the source of zeros


class Edit(NamedTuple):
    """Positions ``start`` .. ``end`` of a row's or a place's states: carried from another, or zeros.

    Attributes:
        scope: ``ROWS``, or the index of a width.
        source: ``UNUSED`` for zeros.
    """

    scope: int
    destination: int
    source: int
    start: int
    end: int


class StateBuffers(Generic[A]):
    """For each state group of rows, an array [count, rows, *shape]; "replace" groups have two that take turns. For each
    group of requests, an array [count, places, *shape] per width.

    ``generation`` changes whenever the arrays are other objects, so that bindings to them know they are stale.
    """

    def __init__(
        self, states: Sequence[StateTensor], budget: int, widths: Sequence[int], memory: Memory[A]
    ) -> None:
        self._memory = memory
        self.states = {state.name: state for state in states}
        self.cost = StateCost.of(states)
        self.capacity = Capacity.none(widths)
        self.generation = 0
        self._budget = budget
        self._rows = [state for state in states if state.scope == "row"]
        self._requests = [state for state in states if state.scope == "request"]
        self._replaces = any(state.update == "replace" for state in states)
        self._phase = 0
        self._arrays: dict[str, list[A]] = {state.name: self._allocate(state, self.capacity) for state in states}

    @property
    def bytes_used(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    @property
    def phase(self) -> int:
        """Which of two buffers replaced states are read from; always 0 without such states."""
        return self._phase

    def current(self, name: str) -> A:
        """The array of a row's state that the next step reads."""
        arrays = self._arrays[name]
        return arrays[self._phase % len(arrays)]

    def following(self, name: str) -> A:
        """The array that the next step writes: the same one, unless the state is replaced."""
        arrays = self._arrays[name]
        return arrays[(self._phase + 1) % len(arrays)]

    def of_width(self, name: str, width: int) -> A:
        """The array of a request's state for places of a width, given by its index."""
        return self._arrays[name][width]

    def advance(self) -> None:
        """After a step: replaced states change places."""
        if self._replaces:
            self._phase = 1 - self._phase

    def reserve(self, need: Capacity) -> None:
        """Grow to hold ``need``, copying what is there once. Values keep their places, so results keep their bits."""
        if self.capacity.holds(need):
            return
        wanted = grown(self.capacity, need, self.cost, self._budget)
        if self.cost.bytes_of(wanted) > self._budget:
            raise MemoryError(f"{self.cost.bytes_of(wanted)} bytes of state exceed the budget of {self._budget}")
        shared = self.capacity.intersection(wanted)
        for name, state in self.states.items():
            # One group at a time: the peak is the old and the new arrays of a single group.
            fresh = self._allocate(state, wanted)
            old = self._arrays[name] if state.scope == "request" else [self.current(name)]
            indices = shared.places if state.scope == "request" else (shared.rows,)
            for before, after, count in zip(old, fresh, indices, strict=False):  # of two that take turns, one is read
                kept = (slice(None), slice(0, count), *_span(state, shared.target, shared.source))
                self._memory.copy(before[kept], after[kept])
            self._arrays[name] = fresh
        self._phase = 0
        self.capacity = wanted
        self.generation += 1

    def change(self, changes: Changes) -> None:
        """Zero the written part of what is released, then carry what moves, and zero what it leaves."""
        edits = [Edit(ROWS, gone.row, UNUSED, 0, gone.length) for gone in changes.release_rows]
        edits += [Edit(freed.place.width, freed.place.index, UNUSED, 0, freed.length)
                  for freed in changes.release_places]
        for row in changes.move_rows:
            edits.append(Edit(ROWS, row.destination, row.source, 0, row.length))
            edits.append(Edit(ROWS, row.source, UNUSED, 0, row.length))
        for place in changes.move_places:
            width = place.source.width
            edits.append(Edit(width, place.destination.index, place.source.index, 0, place.length))
            edits.append(Edit(width, place.source.index, UNUSED, 0, place.length))
        if edits:
            self._edit(edits)

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Let rows go on from what other rows have written."""
        if copies:
            self._edit([Edit(ROWS, entry.destination, entry.source, entry.start, entry.end) for entry in copies])

    def _edit(self, edits: Sequence[Edit]) -> None:
        """Do all of it, in this order."""
        for edit in edits:
            for state in self._rows if edit.scope == ROWS else self._requests:
                span = _span(state, edit.end, edit.end, edit.start)
                for array in self._edited(state, edit):
                    to = array[(slice(None), edit.destination, *span)]
                    if edit.source == UNUSED:
                        self._memory.zero(to)
                    else:
                        self._memory.copy(array[(slice(None), edit.source, *span)], to)

    def _edited(self, state: StateTensor, edit: Edit) -> list[A]:
        """What is carried is what the next step reads; zeros go into both of two that take turns."""
        if edit.scope != ROWS:
            return [self.of_width(state.name, edit.scope)]
        return self._arrays[state.name] if edit.source == UNUSED else [self.current(state.name)]

    def excerpt(self, rows: Sequence[int], places: Sequence[Sequence[int]], room: Capacity) -> "StateBuffers[A]":
        """Buffers of their own with copies of some rows and places, numbered anew; they may be over the budget.

        Args:
            places: Of each width.
            room: What they are to hold, at least; beyond the copies there are zeros.
        """
        capacity = room.union(Capacity(
            len(rows), self.capacity.target, self.capacity.source, tuple(len(those) for those in places)
        ))
        states = list(self.states.values())
        budget = self.cost.bytes_of(capacity.rounded())
        excerpt = StateBuffers(states, budget, [0] * len(places), self._memory)
        excerpt.reserve(capacity)
        span = (self.capacity.target, self.capacity.source)
        for state in self._rows:
            for number, row in enumerate(rows):
                self._copy_whole(state, self.current(state.name), row, excerpt.current(state.name), number, span)
        for state in self._requests:
            for width, those in enumerate(places):
                source, target = self.of_width(state.name, width), excerpt.of_width(state.name, width)
                for number, place in enumerate(those):
                    self._copy_whole(state, source, place, target, number, span)
        return excerpt

    def take_back(self, excerpt: "StateBuffers[A]", rows: Sequence[int]) -> None:
        """Put the rows of an excerpt back where they came from, as a step has left them there."""
        span = (self.capacity.target, self.capacity.source)
        for state in self._rows:
            for number, row in enumerate(rows):
                self._copy_whole(state, excerpt.current(state.name), number, self.current(state.name), row, span)

    def _copy_whole(
        self, state: StateTensor, source: A, number: int, target: A, other: int, lengths: tuple[int, int]
    ) -> None:
        span = _span(state, *lengths)
        self._memory.copy(source[(slice(None), number, *span)], target[(slice(None), other, *span)])

    def write_source(self, name: str, source: Source, values: A) -> None:
        """Put what the encoder computed for one source [count, *shape] where it belongs."""
        state = self.states[name]
        length = 0 if state.length_axis is None else values.shape[1 + state.length_axis]
        span = _span(state, length, length)
        if state.scope == "row":
            self._memory.copy(values, self.current(name)[(slice(None), source.row, *span)])
            return
        for place in source.places:
            self._memory.copy(values, self.of_width(name, place.width)[(slice(None), place.index, *span)])

    def _allocate(self, state: StateTensor, capacity: Capacity) -> list[A]:
        length = {"source": capacity.source, "target": capacity.target, "fixed": 0}[state.length]
        shape = tuple(size if isinstance(size, int) else length for size in state.shape)
        row_buffers = 2 if state.update == "replace" else 1
        counts = capacity.places if state.scope == "request" else (capacity.rows,) * row_buffers
        # Zeros, never empty memory: a stale NaN under a zero attention weight would still be a NaN.
        return [self._memory.allocate((state.count, count, *shape), state.dtype) for count in counts]


def _span(state: StateTensor, target: int, source: int, start: int = 0) -> Index:
    """Index of positions from ``start`` along a state's length axis; everything along the others."""
    end = target if state.length == "target" else source
    return tuple(slice(start, end) if size == LENGTH_AXIS else slice(None) for size in state.shape)
