"""What is asked of the CUDA runtime, by one that is none: right by its documentation. No GPU was asked."""

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_cuda import Errors, FakeCuda, Kinds
from seqserve_server import cuda_memory
from seqserve_server.cuda_memory import CudaError, CudaMemory, load_runtime
from seqserve_server.device_memory import HostMemory, TransferBlock
from test_device_memory import filled, parts


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def memory(cuda: FakeCuda) -> CudaMemory:
    return CudaMemory(cuda)


def read(memory: CudaMemory, array: Any) -> Any:
    host = np.zeros(array.shape, dtype=array.dtype)
    memory.download(array, host)
    memory.synchronize()
    return host


@given(parts(), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_what_is_copied_and_zeroed_is_what_the_twin_copies_and_zeroes(part: Any, more: list[int]) -> None:
    shape, index = part
    found = []
    for memory in (CudaMemory(FakeCuda()), HostMemory()):
        array, _ = filled(memory, shape)
        grown, _ = filled(memory, [size + extra for size, extra in zip(shape, more, strict=False)])
        kept = tuple(slice(0, size) for size in shape)
        memory.copy(array[index], grown[kept][index])
        memory.zero(array[index])
        for each in (array, grown):
            found.append(np.zeros(each.shape, dtype=each.dtype))
            memory.download(each, found[-1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_memory_is_zero_when_it_is_given_out(memory: CudaMemory) -> None:
    assert not read(memory, memory.allocate([3, 5], "float16")).any()
    assert not memory.staging(100).any()


def test_memory_goes_back_with_the_last_part_of_it(cuda: FakeCuda, memory: CudaMemory) -> None:
    part = memory.allocate([4, 4], "int32")[1, 2:]
    block = TransferBlock(memory, {"one": ([3], "int32"), "two": ([5], "int64")})
    view = block.host["two"][1:3]
    del block
    gc.collect()
    assert len(cuda.live) == 2, "the array, and the host's side of the block"
    view[...] = 5
    assert part.nbytes == 8
    del part, view
    gc.collect()
    assert not cuda.live


def test_a_row_of_a_state_is_one_call(cuda: FakeCuda, memory: CudaMemory) -> None:
    state = memory.allocate([12, 8, 4, 32, 16], "float16")
    del cuda.calls[:]
    memory.copy(state[:, 1, :, :7], state[:, 2, :, :7])
    memory.zero(state[:, 1, :, :7])
    assert cuda.calls == ["memcpy3D", "memset3D"]


def test_a_block_is_one_call_each_way(cuda: FakeCuda, memory: CudaMemory) -> None:
    block = TransferBlock(memory, {"one": ([3], "int32"), "two": ([5], "int64")})
    del cuda.calls[:]
    block.host["one"][...] = 3
    block.upload()
    block.host["one"][...] = 0
    block.download()
    assert cuda.calls == ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "synchronize"]
    assert block.host["one"].tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("cuda", "text"),
    [
        (FakeCuda(devices=0), "no device"),
        (FakeCuda(error=Errors.cudaErrorInsufficientDriver), "cudaGetDeviceCount: text of cudaErrorInsufficientDriver"),
    ],
)
def test_without_a_device_it_is_said_what_is_missing(cuda: FakeCuda, text: str) -> None:
    with pytest.raises(CudaError, match=text):
        CudaMemory(cuda)


def test_a_device_that_is_full_is_a_matter_of_memory(cuda: FakeCuda, memory: CudaMemory) -> None:
    cuda.room = 1000
    with pytest.raises(MemoryError, match="no 2000 bytes left"):
        memory.allocate([1000], "float16")


def test_without_the_bindings_it_is_said_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "RUNTIME", "cuda_bindings_that_are_not_there")
    with pytest.raises(CudaError, match="cuda-bindings cannot be imported"):
        load_runtime()


def test_the_real_bindings_have_all_that_is_used_of_them() -> None:
    """Where they are installed; they need no GPU for it. What they say of a machine without one is an error, too."""
    real = pytest.importorskip(cuda_memory.RUNTIME)
    used = [name for name in dir(FakeCuda()) if name.startswith(("cuda", "make_"))]
    assert [name for name in used if not hasattr(real, name)] == []
    assert {kind.name for kind in Kinds} <= set(real.cudaMemcpyKind.__members__)
    assert {error.name for error in Errors} <= set(real.cudaError_t.__members__)
    copy = real.cudaMemcpy3DParms()
    copy.srcPtr, copy.extent = real.make_cudaPitchedPtr(1 << 40, 256, 64, 4), real.make_cudaExtent(64, 3, 2)
    assert (copy.srcPtr.ptr, copy.srcPtr.pitch, copy.srcPtr.ysize, copy.extent.depth) == (1 << 40, 256, 4, 2)
    if real.cudaGetDeviceCount()[0] != real.cudaError_t.cudaSuccess:
        with pytest.raises(CudaError, match=r"^cudaGetDeviceCount: "):
            CudaMemory(real)
