"""A CUDA runtime that is none: the calls of ``cuda.bindings.runtime`` that are used, over this process's memory.

It does what the documentation of the CUDA runtime says of each call, and refuses what that forbids. That a device does
the same is what no test here can tell.
"""

import ctypes
import enum
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Errors(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35


class Kinds(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


@dataclass(frozen=True)
class PitchedPtr:
    ptr: int
    pitch: int
    xsize: int
    ysize: int


@dataclass(frozen=True)
class Extent:
    width: int
    height: int
    depth: int


@dataclass
class Copy:
    srcPtr: PitchedPtr | None = None
    dstPtr: PitchedPtr | None = None
    extent: Extent | None = None
    kind: Kinds | None = None


@dataclass
class FakeCuda:
    """Answers are tuples that begin with an error, as those of the bindings."""

    devices: int = 1
    room: int = 1 << 30
    error: Errors = Errors.cudaSuccess
    calls: list[str] = field(default_factory=list)
    live: dict[int, Any] = field(default_factory=dict)
    cudaError_t = Errors
    cudaMemcpyKind = Kinds
    cudaMemcpy3DParms = Copy
    cudaStreamNonBlocking = 1
    make_cudaPitchedPtr = PitchedPtr
    make_cudaExtent = Extent

    def cudaGetDeviceCount(self) -> tuple[Errors, int]:
        return self.error, self.devices

    def cudaGetErrorString(self, error: Errors) -> tuple[Errors, bytes]:
        return Errors.cudaSuccess, f"text of {error.name}".encode()

    def cudaSetDevice(self, device: int) -> tuple[Errors]:
        return (Errors.cudaSuccess if device < self.devices else Errors.cudaErrorInvalidValue,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Errors, int]:
        assert flags == self.cudaStreamNonBlocking
        return Errors.cudaSuccess, 4711

    def cudaStreamSynchronize(self, stream: int) -> tuple[Errors]:
        return self._on(stream, "synchronize")

    def cudaMalloc(self, size: int) -> tuple[Errors, int | None]:
        if size > self.room:
            return Errors.cudaErrorMemoryAllocation, None
        return Errors.cudaSuccess, self._allocate(size)

    def cudaMallocHost(self, size: int) -> tuple[Errors, int]:
        return Errors.cudaSuccess, self._allocate(size)

    def cudaFree(self, pointer: int) -> tuple[Errors]:
        del self.live[pointer]
        return (Errors.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemsetAsync(self, pointer: int, value: int, size: int, stream: int) -> tuple[Errors]:
        ctypes.memset(pointer, value, size)
        return self._on(stream, "memset")

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Kinds, stream: int) -> tuple[Errors]:
        assert isinstance(kind, Kinds)
        ctypes.memmove(to, of, size)
        return self._on(stream, kind.name)

    def cudaMemset3DAsync(self, to: PitchedPtr, value: int, extent: Extent, stream: int) -> tuple[Errors]:
        for (start,) in _runs(extent, to):
            ctypes.memset(start, value, extent.width)
        return self._on(stream, "memset3D")

    def cudaMemcpy3DAsync(self, copy: Copy, stream: int) -> tuple[Errors]:
        assert copy.srcPtr is not None
        assert copy.dstPtr is not None
        assert copy.extent is not None
        for start, end in _runs(copy.extent, copy.srcPtr, copy.dstPtr):
            ctypes.memmove(end, start, copy.extent.width)
        return self._on(stream, "memcpy3D")

    def _on(self, stream: int, call: str) -> tuple[Errors]:
        assert stream == 4711, "all of it on the stream that the graphs are on"
        self.calls.append(call)
        return (Errors.cudaSuccess,)

    def _allocate(self, size: int) -> int:
        """Filled with what was there before."""
        assert size > 0
        array = np.full(size, 255, dtype=np.uint8)
        self.live[int(array.ctypes.data)] = array
        return int(array.ctypes.data)


def _runs(extent: Extent, *pointers: PitchedPtr) -> Any:
    """Addresses of the rows of an extent: those of a slice are a pitch apart, slices are ``ysize`` pitches apart."""
    for pointer in pointers:
        assert extent.width <= pointer.pitch
        assert extent.height <= pointer.ysize or extent.depth == 1
    for layer, row in itertools.product(range(extent.depth), range(extent.height)):
        yield tuple(each.ptr + (layer * each.ysize + row) * each.pitch for each in pointers)
