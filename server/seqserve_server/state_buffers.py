"""Where the state of every row lives: one array per declared state group, grown by powers of two."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve.bundle import LENGTH_AXIS, StateTensor
from seqserve_server.capacity import Capacity, StateCost, grown
from seqserve_server.engine import Move, Release

Array = NDArray[np.generic]
Index = tuple[slice | int, ...]


class StateBuffers:
    """Arrays [count, rows, *shape] for each state group; "replace" groups have two that take turns.

    ``generation`` changes whenever the arrays are other objects, so that bindings to them know they are stale.
    """

    def __init__(self, states: Sequence[StateTensor], budget: int) -> None:
        self.states = {state.name: state for state in states}
        self.cost = StateCost.of(states)
        self.capacity = Capacity(0, 0, 0)
        self.generation = 0
        self._budget = budget
        self._replaces = any(state.update == "replace" for state in states)
        self._phase = 0
        self._arrays: dict[str, list[Array]] = {state.name: self._allocate(state, self.capacity) for state in states}

    @property
    def bytes_used(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    @property
    def phase(self) -> int:
        """Which of two buffers replaced states are read from; always 0 without such states."""
        return self._phase

    def current(self, name: str) -> Array:
        """The array that the next step reads."""
        arrays = self._arrays[name]
        return arrays[self._phase % len(arrays)]

    def following(self, name: str) -> Array:
        """The array that the next step writes: the same one, unless the state is replaced."""
        arrays = self._arrays[name]
        return arrays[(self._phase + 1) % len(arrays)]

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
        shared = Capacity(*(min(a, b) for a, b in zip(_sizes(self.capacity), _sizes(wanted), strict=True)))
        for name, state in self.states.items():
            old = self.current(name)
            # One group at a time: the peak is the old and the new arrays of a single group.
            fresh = self._allocate(state, wanted)
            kept = (slice(None), slice(0, shared.rows), *_span(state, shared.target, shared.source))
            fresh[0][kept] = old[kept]
            self._arrays[name] = fresh
        self._phase = 0
        self.capacity = wanted
        self.generation += 1

    def release(self, releases: Sequence[Release]) -> None:
        """Zero the written part of slots, in both buffers of replaced states."""
        for entry in releases:
            for name, state in self.states.items():
                span = _span(state, entry.target_length, entry.source_length)
                for array in self._arrays[name]:
                    array[(slice(None), entry.slot, *span)] = 0

    def move(self, moves: Sequence[Move]) -> None:
        """Carry the written part of rows to other slots, and zero what they leave."""
        for entry in moves:
            for name, state in self.states.items():
                span = _span(state, entry.target_length, entry.source_length)
                array = self.current(name)
                array[(slice(None), entry.destination, *span)] = array[(slice(None), entry.source, *span)]
        self.release([Release(entry.source, entry.target_length, entry.source_length) for entry in moves])

    def write_source(self, name: str, slot: int, values: Array) -> None:
        """Put what the encoder computed for one source [count, *shape] into a slot."""
        state = self.states[name]
        length = 0 if state.length_axis is None else values.shape[1 + state.length_axis]
        self.current(name)[(slice(None), slot, *_span(state, length, length))] = values

    def _allocate(self, state: StateTensor, capacity: Capacity) -> list[Array]:
        length = {"source": capacity.source, "target": capacity.target, "fixed": 0}[state.length]
        shape = tuple(size if isinstance(size, int) else length for size in state.shape)
        count = 2 if state.update == "replace" else 1
        # Zeros, never empty memory: a stale NaN under a zero attention weight would still be a NaN.
        return [np.zeros((state.count, capacity.rows, *shape), dtype=state.dtype) for _ in range(count)]


def _sizes(capacity: Capacity) -> tuple[int, int, int]:
    return capacity.rows, capacity.target, capacity.source


def _span(state: StateTensor, target: int, source: int) -> Index:
    """Index of the first positions along a state's length axis; everything along the others."""
    length = target if state.length == "target" else source
    return tuple(slice(0, length) if size == LENGTH_AXIS else slice(None) for size in state.shape)
