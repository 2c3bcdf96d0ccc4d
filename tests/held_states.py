"""State buffers of four kinds of state, with something in them."""

import numpy as np

from seqserve.bundle import StateTensor
from seqserve_server.capacity import Capacity
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.state_buffers import Array, StateBuffers

SELF = StateTensor("self", 2, (3, "length", 4), "float32", "row", "target", "append")
CROSS = StateTensor("cross", 2, (3, "length", 4), "float32", "request", "source", "constant")
HIDDEN = StateTensor("hidden", 2, (5,), "float32", "row", "fixed", "replace")
CONTEXT = StateTensor("context", 1, (6,), "float32", "request", "fixed", "constant")
STATES = (SELF, CROSS, HIDDEN, CONTEXT)
WIDTHS = (1, 4, 8)
HELD = Capacity(8, 32, 32, (8, 2, 1))


def make_buffers(
    budget: int = 1 << 24, states: tuple[StateTensor, ...] = STATES, *, compiled: bool = True
) -> StateBuffers[Array]:
    buffers = HostBuffers(states, budget, WIDTHS, compiled=compiled)
    buffers.reserve(Capacity(4, 20, 10, (3, 2, 1)))
    return buffers


def arrays(buffers: StateBuffers[Array]) -> dict[str, Array]:
    """What the next step reads, by name, and by width for what requests have."""
    found = {state.name: buffers.current(state.name) for state in (SELF, HIDDEN)}
    return found | {
        f"{state.name}.x{width}": buffers.of_width(state.name, index)
        for state in (CROSS, CONTEXT) for index, width in enumerate(WIDTHS)
    }


def fill(buffers: StateBuffers[Array], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for array in arrays(buffers).values():
        array[...] = rng.standard_normal(array.shape)


def spoil(buffers: StateBuffers[Array]) -> None:
    """NaN everywhere, in what the next step writes too."""
    for array in [*arrays(buffers).values(), *(buffers.following(name) for name in ("self", "hidden"))]:
        array[...] = np.nan


def copies(buffers: StateBuffers[Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays(buffers).items()}


def same(one: Array, other: Array) -> bool:
    """In every bit."""
    return bool((np.ascontiguousarray(one).view(np.uint32) == np.ascontiguousarray(other).view(np.uint32)).all())
