"""Memory that is not numpy's: arrays known by their addresses, and what is done to parts of them.

State lives in such memory where the graphs run on a device. Everything above speaks to ``DeviceMemory``; beside the one
of CUDA there is ``HostMemory``, which does the same by the same addresses in this process, so that all of it is tested
where there is no device.
"""

import ctypes
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

HostArray = NDArray[np.generic]
Index = tuple[slice | int, ...]
ALIGNMENT = 256  # bytes: what cudaMalloc aligns to, and as much as any kernel asks for


class DeviceMemory(Protocol):
    """Of one device, whose work is done in the order in which it was asked for. Used by one thread."""

    @property
    def kind(self) -> str:
        """What the runtime calls it: "cpu" or "cuda"."""

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> "DeviceArray":
        """Zeros."""

    def staging(self, size: int) -> NDArray[np.uint8]:
        """[size], host memory from which and into which transfers are fast."""

    def copy(self, source: "DeviceArray", destination: "DeviceArray") -> None:
        """Between parts of equal shape and type that do not overlap."""

    def zero(self, array: "DeviceArray") -> None:
        """Write zeros into a part."""

    def upload(self, host: HostArray, device: "DeviceArray") -> None:
        """Both contiguous. The host's may change once ``synchronize`` was called, or at once if it is no staging."""

    def download(self, device: "DeviceArray", host: HostArray) -> None:
        """Both contiguous. The host's is valid after ``synchronize``."""

    def synchronize(self) -> None:
        """Wait until everything is done."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """An array or a part of one, somewhere. ``owner`` frees the memory once no part of it is left.

    ``strides`` are in bytes.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other, and so can be bound to a graph."""
        return self.strides == strides_of(self.shape, self.dtype.itemsize)

    def __getitem__(self, index: int | slice | Index) -> "DeviceArray":
        """A part, by integers and slices without steps, as numpy would give it."""
        given = index if isinstance(index, tuple) else (index,)
        if len(given) > len(self.shape):
            raise IndexError(f"{len(given)} indices into {self.shape}")
        pointer, shape, strides = self.pointer, [], []
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            entry = given[axis] if axis < len(given) else slice(None)
            if isinstance(entry, slice):
                start, end, step = entry.indices(size)
                if step != 1:
                    raise IndexError("parts have no steps")
                shape.append(max(end - start, 0))
                strides.append(stride)
            elif 0 <= entry < size:
                start = entry
            else:
                raise IndexError(f"{entry} is outside 0..{size - 1}")
            pointer += start * stride
        return DeviceArray(pointer, tuple(shape), tuple(strides), self.dtype, self.owner)


def strides_of(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of an array whose elements lie one after the other."""
    strides: list[int] = []
    for size in reversed(shape):
        strides.insert(0, itemsize)
        itemsize *= size
    return tuple(strides)


@dataclass(frozen=True, slots=True)
class Box:
    """Runs of bytes at even distances: run (d, h) starts at ``pointer + d * layer + h * pitch``.

    Attributes:
        width: Bytes of a run.
        height, depth: How many of them.
        layer: A multiple of ``pitch``, as the device's copies in three dimensions want it.
    """

    pointer: int
    width: int
    height: int
    depth: int
    pitch: int
    layer: int


def boxes(first: DeviceArray, second: DeviceArray) -> Iterator[tuple[Box, Box]]:
    """Two parts of equal shape and type as boxes that correspond, as few as there can be."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        raise ValueError(f"{first.dtype} {first.shape} and {second.dtype} {second.shape} differ")
    if 0 in first.shape:
        return
    width, axes = _merged(first, second)
    while len(axes) < 2:
        axes.append((1, width, width))
    (height, *pitches), (depth, *layers), *outer = axes
    if any(layer % pitch for pitch, layer in zip(pitches, layers, strict=True)):
        outer = axes[1:]
        depth, layers = 1, [height * pitch for pitch in pitches]
    for steps in itertools.product(*(range(size) for size, _, _ in outer)):
        pointers = [
            array.pointer + sum(step * axis[1 + side] for step, axis in zip(steps, outer, strict=True))
            for side, array in enumerate((first, second))
        ]
        one, other = (
            Box(pointer, width, height, depth, pitch, layer)
            for pointer, pitch, layer in zip(pointers, pitches, layers, strict=True)
        )
        yield one, other


def _merged(first: DeviceArray, second: DeviceArray) -> tuple[int, list[tuple[int, int, int]]]:
    """Bytes of a run; then size and both strides of each axis outside of it, innermost first, merged where they can."""
    width = first.dtype.itemsize
    axes: list[tuple[int, int, int]] = []
    for size, one, other in list(zip(first.shape, first.strides, second.strides, strict=True))[::-1]:
        if size == 1:
            continue
        if not axes and one == other == width:
            width *= size
        elif axes and (one, other) == (axes[-1][0] * axes[-1][1], axes[-1][0] * axes[-1][2]):
            axes[-1] = (axes[-1][0] * size, *axes[-1][1:])
        else:
            axes.append((size, one, other))
    return width, axes


class HostMemory:
    """The twin: the same addresses and boxes, in this process's own memory."""

    kind = "cpu"

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """Zeros."""
        kind = np.dtype(dtype)
        # One byte more than none: an array without elements has an address, too.
        owner = np.zeros(max(math.prod(shape) * kind.itemsize, 1) + ALIGNMENT, dtype=np.uint8)
        pointer = -(-owner.ctypes.data // ALIGNMENT) * ALIGNMENT
        return DeviceArray(pointer, tuple(shape), strides_of(shape, kind.itemsize), kind, owner)

    def staging(self, size: int) -> NDArray[np.uint8]:
        """[size]."""
        return np.zeros(size, dtype=np.uint8)

    def copy(self, source: DeviceArray, destination: DeviceArray) -> None:
        """Box by box."""
        for one, other in boxes(source, destination):
            for start, end in zip(_runs(one), _runs(other), strict=True):
                ctypes.memmove(end, start, one.width)

    def zero(self, array: DeviceArray) -> None:
        """Box by box."""
        for box, _ in boxes(array, array):
            for start in _runs(box):
                ctypes.memset(start, 0, box.width)

    def upload(self, host: HostArray, device: DeviceArray) -> None:
        """At once."""
        check_transfer(host, device)
        ctypes.memmove(device.pointer, host.ctypes.data, host.nbytes)

    def download(self, device: DeviceArray, host: HostArray) -> None:
        """At once."""
        check_transfer(host, device)
        ctypes.memmove(host.ctypes.data, device.pointer, host.nbytes)

    def synchronize(self) -> None:
        """Nothing is ever under way."""


def _runs(box: Box) -> Iterator[int]:
    for layer, row in itertools.product(range(box.depth), range(box.height)):
        yield box.pointer + layer * box.layer + row * box.pitch


def check_transfer(host: HostArray, device: DeviceArray) -> None:
    """Both are contiguous and of one size: what is transferred has no gaps.

    Raises:
        ValueError: they are not.
    """
    if not (host.flags.c_contiguous and device.contiguous) or host.nbytes != device.nbytes:
        raise ValueError(f"no transfer between {host.dtype} {host.shape} and {device.dtype} {device.shape}")


class TransferBlock:
    """Several small arrays side by side, so that all of them cross to the device or back in one transfer.

    Attributes:
        host: By name, in the host's staging memory.
        device: By name, where the graph reads or writes.
    """

    def __init__(self, memory: DeviceMemory, fields: Mapping[str, tuple[Sequence[int], DTypeLike]]) -> None:
        self._memory = memory
        self._staging = memory.staging(0)
        self._block = memory.allocate([0], np.uint8)
        self._size = 0
        self.host: dict[str, HostArray] = {}
        self.device: dict[str, DeviceArray] = {}
        self.lay_out(fields)

    def lay_out(self, fields: Mapping[str, tuple[Sequence[int], DTypeLike]]) -> None:
        """Hold these arrays from now on, in the same memory where it is large enough. Nothing may be under way."""
        starts: dict[str, int] = {}
        self._size = 0
        for name, (shape, dtype) in fields.items():
            starts[name] = -(-self._size // ALIGNMENT) * ALIGNMENT
            self._size = starts[name] + math.prod(shape) * np.dtype(dtype).itemsize
        if self._size > len(self._staging):
            larger = 1 << (self._size - 1).bit_length()
            self._staging, self._block = self._memory.staging(larger), self._memory.allocate([larger], np.uint8)
        self.host.clear()
        self.device.clear()
        for name, (shape, dtype) in fields.items():
            kind = np.dtype(dtype)
            size = math.prod(shape) * kind.itemsize
            self.host[name] = self._staging[starts[name] : starts[name] + size].view(kind).reshape(tuple(shape))
            self.device[name] = DeviceArray(
                self._block.pointer + starts[name], tuple(shape), strides_of(shape, kind.itemsize), kind,
                self._block.owner,
            )

    def upload(self) -> None:
        """All of the host's to the device."""
        self._memory.upload(self._staging[: self._size], self._block[: self._size])

    def download(self) -> None:
        """All of the device's to the host, where it can be read afterwards."""
        self._memory.download(self._block[: self._size], self._staging[: self._size])
        self._memory.synchronize()
