"""State in memory of a device: what happens to numpy's arrays happens to its bytes."""

import numpy as np

from held_states import STATES, WIDTHS, make_buffers, same
from seqserve_server.capacity import Capacity
from seqserve_server.device_memory import DeviceArray, HostMemory
from seqserve_server.engine import Changes, PlaceMove, PlaceRelease, RowCopy, RowMove, RowRelease, Source
from seqserve_server.placement import Place
from seqserve_server.state_buffers import Array, StateBuffers


def test_on_a_device_all_of_it_happens_to_the_same_bytes() -> None:
    """Whatever is asked, in any order: the arrays of the twin hold what numpy's hold."""
    rng = np.random.default_rng(7)
    memory = HostMemory()
    host, device = make_buffers(), StateBuffers(STATES, 1 << 24, WIDTHS, memory)
    device.reserve(Capacity(4, 20, 10, (3, 2, 1)))
    for number in range(60):
        one, other = rng.choice(host.capacity.rows, 2, replace=False).tolist()
        length = int(rng.integers(1, 10))
        if number % 7 == 3:
            rows, target, length_of_sources = rng.integers(1, 40, 3).tolist()
            need = Capacity(rows, target, length_of_sources, (int(rng.integers(1, 20)), 3, 2))
            host.reserve(need)
            device.reserve(need)
        if number % 5 == 1:
            values = rng.standard_normal((2, 3, length, 4)).astype(np.float32)
            there = memory.allocate(values.shape, values.dtype)
            memory.upload(values, there)
            source = Source(0, (Place(0, one % 3), Place(1, 1)), [5] * length)
            host.write_source("cross", source, values)
            device.write_source("cross", source, there)
        given: list[StateBuffers[Array] | StateBuffers[DeviceArray]] = [host, device]
        for buffers in given:
            buffers.copy([RowCopy(one, other, length // 2, length)])
            buffers.advance()
            buffers.change(Changes(
                [RowRelease(one, length)], [PlaceRelease(Place(0, 0), length)], [RowMove(other, one, length)],
                [PlaceMove(Place(0, 1), Place(0, 0), length)],
            ))
        for name in ("self", "hidden"):
            written = host.current(name)
            written[...] = rng.standard_normal(written.shape)
            memory.upload(written, device.current(name))
    assert host.capacity == device.capacity
    assert (host.bytes_used, host.phase) == (device.bytes_used, device.phase)
    for state in STATES:
        for mine, theirs in zip(host._arrays[state.name], device._arrays[state.name], strict=True):
            found = np.zeros(theirs.shape, dtype=theirs.dtype)
            memory.download(theirs, found)
            assert same(mine, found), state.name
