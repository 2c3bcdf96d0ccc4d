"""Graphs of one of our operators, and numbers to feed them."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from seqserve_export.graphs.kernels import DOMAIN, define, definitions
from seqserve_server import kernels

Arrays = dict[str, NDArray[np.generic]]
TYPES = {
    "float32": ir.DataType.FLOAT, "uint8": ir.DataType.UINT8, "int32": ir.DataType.INT32, "int64": ir.DataType.INT64
}
OUTPUT_TYPES = {"rounded": ir.DataType.UINT8, "ids": ir.DataType.INT64}
needs_library = pytest.mark.skipif(
    kernels.compiled_library() is None, reason="no operators were compiled for this machine"
)


def session(
    operator: str, inputs: Arrays, attributes: dict[str, int | float], *, compiled: bool,
    constants: Arrays | None = None,
) -> ort.InferenceSession:
    """A graph of one node, with its definition; constants are in the graph."""
    function, constants = definitions()[operator], constants or {}
    values = {
        name: ir.Value(name=name, type=ir.TensorType(TYPES[array.dtype.name]), shape=ir.Shape([None] * array.ndim))
        for name, array in inputs.items()
    }
    for name, array in constants.items():
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        values[name] = ir.Value(name=name, type=kind, shape=ir.Shape(array.shape), const_value=tensor)
    operands = [values[str(declared.name)] for declared in function.inputs]
    node = ir.node(operator, operands, attributes, domain=DOMAIN, num_outputs=len(function.outputs))
    for made, declared in zip(node.outputs, function.outputs, strict=True):
        made.name, made.type = declared.name, ir.TensorType(OUTPUT_TYPES.get(str(declared.name), ir.DataType.FLOAT))
    graph = ir.Graph(
        [values[name] for name in inputs], node.outputs, nodes=[node], name="one",
        initializers=[values[name] for name in constants], opset_imports={"": 20},
    )
    model = ir.Model(graph, ir_version=10)
    define(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    if compiled:
        options.register_custom_ops_library(str(kernels.compiled_library()))
    proto: onnx.ModelProto = ir.to_proto(model)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
