"""Parts of arrays that are known by address alone: what numpy would do to them, and not a byte beside."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve_server.device_memory import (
    ALIGNMENT,
    Box,
    DeviceArray,
    DeviceMemory,
    HostMemory,
    TransferBlock,
    boxes,
    strides_of,
)

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def values(array: DeviceArray) -> NDArray[Any]:
    """What a contiguous array holds."""
    host = np.zeros(array.shape, dtype=array.dtype)
    HostMemory().download(array, host)
    return host


def filled(memory: DeviceMemory, shape: list[int], dtype: str = "int32") -> tuple[DeviceArray, NDArray[Any]]:
    """1, 2, 3, ..., there and as numpy has it."""
    host = np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)
    array = memory.allocate(shape, dtype)
    memory.upload(host, array)
    return array, host


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[int], tuple[slice | int, ...]]:
    shape = draw(SIZES)
    index: list[slice | int] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        start = draw(st.integers(0, size))
        index.append(
            draw(st.one_of(st.integers(0, size - 1), st.just(slice(None)), st.just(slice(start, draw(
                st.integers(start, size)
            )))))
        )
    return shape, tuple(index)


@given(parts(), st.sampled_from(["float16", "int32", "int64"]))
def test_parts_are_those_of_numpy(part: tuple[list[int], tuple[slice | int, ...]], dtype: str) -> None:
    shape, index = part
    array, host = filled(HostMemory(), shape, dtype)
    mine, theirs = array[index], host[index]
    assert mine.shape == np.shape(theirs)
    assert mine.nbytes == theirs.nbytes
    if theirs.size and theirs.ndim:
        assert mine.strides == theirs.strides
        assert mine.pointer - array.pointer == theirs.ctypes.data - host.ctypes.data
        assert mine.contiguous or not theirs.flags.c_contiguous or 1 in theirs.shape


@given(parts())
def test_zeroing_a_part_touches_nothing_else(part: tuple[list[int], tuple[slice | int, ...]]) -> None:
    shape, index = part
    memory = HostMemory()
    array, host = filled(memory, shape)
    memory.zero(array[index])
    host[index] = 0
    np.testing.assert_array_equal(values(array), host)


@given(parts(), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_copying_a_part_into_an_array_of_another_size(
    part: tuple[list[int], tuple[slice | int, ...]], more: list[int]
) -> None:
    """As when buffers grow: the same index into both, whatever the sizes around it."""
    shape, index = part
    memory = HostMemory()
    array, host = filled(memory, shape)
    kept = tuple(slice(0, size) for size in shape)
    grown, expected = filled(memory, [size + extra for size, extra in zip(shape, more, strict=False)])
    memory.copy(array[index], grown[kept][index])
    expected[kept][index] = host[index]
    np.testing.assert_array_equal(values(grown), expected)


def test_a_row_of_a_state_is_one_box_however_many_layers_and_heads_it_has() -> None:
    """[layers, rows, heads, length, size]: what a device copies in one call of its copy in three dimensions."""
    array = HostMemory().allocate([12, 64, 8, 128, 64], "float16")
    span = array[:, 5, :, 3:10, :]
    ((one, other),) = boxes(span, array[:, 9, :, 3:10, :])
    pitch = 128 * 64 * 2
    assert one == Box(array.pointer + (5 * 8 * 128 + 3) * 64 * 2, 7 * 64 * 2, 8, 12, pitch, 64 * 8 * pitch)
    assert other.pointer - one.pointer == 4 * 8 * pitch
    ((whole, _),) = boxes(array[:, 5], array[:, 9])
    assert (whole.width, whole.height, whole.depth) == (8 * pitch, 12, 1)


def test_layers_that_are_no_multiple_of_the_pitch_are_several_boxes() -> None:
    array = DeviceArray(1 << 20, (3, 2, 4), (100, 24, 4), np.dtype("int32"), None)
    found = [one for one, _ in boxes(array, array)]
    assert [box.pointer - (1 << 20) for box in found] == [0, 100, 200]
    assert {(box.width, box.height, box.depth, box.pitch) for box in found} == {(16, 2, 1, 24)}


def test_what_differs_is_neither_copied_nor_transferred() -> None:
    memory = HostMemory()
    array = memory.allocate([4, 4], "float16")
    with pytest.raises(ValueError, match="differ"):
        memory.copy(array[0], array)
    with pytest.raises(ValueError, match="differ"):
        memory.copy(memory.allocate([4, 4], "int16"), array)
    for host, device in ((np.zeros((4, 4), "float16")[:, :2], array[:, :2]), (np.zeros(3, "float16"), array[0])):
        with pytest.raises(ValueError, match="no transfer"):
            memory.upload(host, device)


@pytest.mark.parametrize("index", [4, -1, (0, 0, 0), slice(0, 4, 2)])
def test_indices_that_are_none_are_refused(index: Any) -> None:
    with pytest.raises(IndexError):
        HostMemory().allocate([4, 4], "int32")[index]


def test_memory_lives_as_long_as_a_part_of_it() -> None:
    memory = HostMemory()
    part = filled(memory, [1000])[0][10:20]
    for _ in range(50):
        memory.allocate([1000], "int32")
    assert values(part).tolist() == list(range(11, 21))


def test_a_block_crosses_in_one_transfer_and_its_fields_are_where_any_kernel_may_read() -> None:
    memory = HostMemory()
    fields: dict[str, tuple[list[int], str]] = {
        "tokens": ([5], "int64"), "positions": ([3], "int32"), "scores": ([2, 2], "float32"), "none": ([0, 7], "int32"),
    }
    block = TransferBlock(memory, fields)
    for name, (shape, dtype) in fields.items():
        assert block.host[name].shape == block.device[name].shape == tuple(shape)
        assert block.host[name].dtype == block.device[name].dtype == np.dtype(dtype)
        assert block.device[name].pointer % ALIGNMENT == 0
        assert block.device[name].strides == strides_of(shape, np.dtype(dtype).itemsize)
        block.host[name][...] = 7
    assert (values(block.device["scores"]) == 0).all()
    block.upload()
    assert all((values(block.device[name]) == 7).all() for name in fields)
    for name in fields:
        block.host[name][...] = 0
    block.download()
    assert all((block.host[name] == 7).all() for name in fields)


def test_the_twin_reads_and_writes_at_addresses() -> None:
    array, host = filled(HostMemory(), [3, 5])
    size = ctypes.c_int32 * 15
    assert list(size.from_address(array.pointer)) == host.reshape(-1).tolist()
