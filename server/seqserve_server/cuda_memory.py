"""Memory of the first CUDA device: one stream, on which the graphs run, too, and everything is done in order.

Has not run on a GPU yet. What it asks of the CUDA runtime is tested against one that is none (tests/fake_cuda.py).
"""

import ctypes
import importlib
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seqserve_server.device_memory import Box, DeviceArray, HostArray, boxes, check_transfer, strides_of

RUNTIME = "cuda.bindings.runtime"  # NVIDIA's own bindings; of the extra server-gpu


class CudaError(Exception):
    """The CUDA runtime refused something; the message says what and why."""


def load_runtime() -> Any:
    """The bindings of the CUDA runtime.

    Raises:
        CudaError: they are not installed.
    """
    try:
        return importlib.import_module(RUNTIME)
    except ImportError as error:
        raise CudaError(f"cuda-bindings cannot be imported ({error})") from None


class CudaMemory:
    """Implements :class:`seqserve_server.device_memory.DeviceMemory`.

    Attributes:
        stream: The address of the stream, for the runtime of the graphs.
    """

    kind = "cuda"

    def __init__(self, runtime: Any) -> None:
        """Take the first device.

        Raises:
            CudaError: there is none, or its driver is older than the libraries.
        """
        self._cuda = runtime
        (count,) = self._call("cudaGetDeviceCount")
        if not count:
            raise CudaError("no device")
        self._call("cudaSetDevice", 0)
        # It does not wait for the legacy stream, and a capture on it is not disturbed by one.
        (stream,) = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(stream)

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """Zeros.

        Raises:
            MemoryError: the device has no room.
        """
        kind = np.dtype(dtype)
        size = max(math.prod(shape) * kind.itemsize, 1)  # an array without elements has an address, too
        error, pointer = self._cuda.cudaMalloc(size)
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError(f"the device has no {size} bytes left")
        self._check("cudaMalloc", error)
        owner = _Owner(int(pointer))
        # Waits for whatever is still reading it.
        weakref.finalize(owner, self._cuda.cudaFree, int(pointer)).atexit = False
        self._call("cudaMemsetAsync", int(pointer), 0, size, self.stream)
        return DeviceArray(int(pointer), tuple(shape), strides_of(shape, kind.itemsize), kind, owner)

    def staging(self, size: int) -> NDArray[np.uint8]:
        """[size], page-locked: transfers from other memory go through a copy and are waited for."""
        if not size:
            return np.zeros(0, dtype=np.uint8)
        (pointer,) = self._call("cudaMallocHost", size)
        buffer = (ctypes.c_uint8 * size).from_address(int(pointer))
        weakref.finalize(buffer, self._cuda.cudaFreeHost, int(pointer)).atexit = False
        host: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
        host[...] = 0
        return host

    def copy(self, source: DeviceArray, destination: DeviceArray) -> None:
        """One copy in three dimensions for each box."""
        cuda = self._cuda
        for one, other in boxes(source, destination):
            given = cuda.cudaMemcpy3DParms()
            given.srcPtr, given.dstPtr = self._pitched(one), self._pitched(other)
            given.extent = cuda.make_cudaExtent(one.width, one.height, one.depth)
            given.kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._call("cudaMemcpy3DAsync", given, self.stream)

    def zero(self, array: DeviceArray) -> None:
        """One memset in three dimensions for each box."""
        for box, _ in boxes(array, array):
            extent = self._cuda.make_cudaExtent(box.width, box.height, box.depth)
            self._call("cudaMemset3DAsync", self._pitched(box), 0, extent, self.stream)

    def upload(self, host: HostArray, device: DeviceArray) -> None:
        """One copy."""
        check_transfer(host, device)
        self._transfer(device.pointer, host.ctypes.data, host.nbytes, "cudaMemcpyHostToDevice")

    def download(self, device: DeviceArray, host: HostArray) -> None:
        """One copy."""
        check_transfer(host, device)
        self._transfer(host.ctypes.data, device.pointer, host.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    def _transfer(self, destination: int, source: int, size: int, direction: str) -> None:
        if size:
            kind = getattr(self._cuda.cudaMemcpyKind, direction)
            self._call("cudaMemcpyAsync", destination, source, size, kind, self.stream)

    def _pitched(self, box: Box) -> Any:
        return self._cuda.make_cudaPitchedPtr(box.pointer, box.pitch, box.width, box.layer // box.pitch)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *values = getattr(self._cuda, name)(*arguments)
        self._check(name, error)
        return tuple(values)

    def _check(self, name: str, error: Any) -> None:
        if error != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(error)
            raise CudaError(f"{name}: {text.decode() if isinstance(text, bytes) else text}")


class _Owner:
    """What a finalizer hangs on."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
