"""The one file with the weights of a bundle. Both graphs refer to it, and what they share is stored once.

Weights beside the graphs, always: a protobuf message ends at 2 GB, the runtime maps a file instead of copying it, and
an embedding table that encoder, decoder and output projection read is there for all three.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir

ALIGNMENT = 4096  # pages, so that the runtime can map each tensor
SMALL_BYTES = 1024  # below, tensors stay in the graph: shapes and scalars, which the runtime reads when it plans

Key = tuple[onnx_ir.DataType, tuple[int, ...], bytes]


class WeightsFile:
    """Grows by what every graph brings that is not there yet. Nothing is held in memory but where things are."""

    def __init__(self, path: Path) -> None:
        """Begin a new file.

        Raises:
            OSError: it cannot be written.
        """
        self._path = path
        self._places: dict[Key, tuple[int, int]] = {}
        path.write_bytes(b"")

    def save(self, model: onnx_ir.Model, path: Path) -> None:
        """Write a graph beside the file, and its large tensors into it.

        Raises:
            OSError: there is no room, for one.
        """
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SMALL_BYTES:
                offset, length = self._store(tensor)
                value.const_value = onnx_ir.ExternalTensor(
                    self._path.name, offset, length, tensor.dtype, shape=onnx_ir.Shape(tensor.shape.numpy()),
                    name=str(value.name), base_dir=self._path.parent,
                )
        onnx_ir.save(model, path)

    def _store(self, tensor: onnx_ir.TensorProtocol) -> tuple[int, int]:
        """Offset and length in bytes, appended unless the same values are there."""
        array = np.ascontiguousarray(tensor.numpy())
        data = array.reshape(-1).view(np.uint8).data
        key = (tensor.dtype, array.shape, hashlib.sha256(data).digest())
        if key not in self._places:
            with open(self._path, "r+b") as file:
                end = file.seek(0, 2)
                offset = file.seek(-(-end // ALIGNMENT) * ALIGNMENT)
                file.write(data)
            self._places[key] = (offset, len(data))
        return self._places[key]
