"""Linear layers in 8 bits: weights with one scale per output channel, activations with one scale per row.

A scale per row, because the runtime's own dynamic quantisation takes one over the whole batch, and then what a request
gets depends on who else is being served. See docs/decisions/0007.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seqserve_export.graphs.kernels import DOMAIN, define, replace

LEVELS = 127  # symmetric: -127 .. 127 around the zero point
BLOCK = 1024  # output channels that are rounded at a time, so that a vocabulary is not held four times in float32
TINY = 1e-12  # the scale of a row, or a channel, of zeros


@dataclass(frozen=True)
class Rounded:
    """An activation in 8 bits [..., width] and the scale of each of its rows [..., 1]."""

    values: ir.Value
    scales: ir.Value


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """[inputs, outputs] -> int8 of the same shape and float32 scales [outputs]: ``weight ~ int8 * scale``."""
    integers, scales = np.empty(weight.shape, dtype=np.int8), np.empty(weight.shape[1], dtype=np.float32)
    for first in range(0, weight.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        part = weight[:, block]
        scales[block] = np.maximum(np.abs(part).max(axis=0) / LEVELS, TINY)
        integers[:, block] = np.clip(np.rint(part / scales[block]), -LEVELS, LEVELS)
    return integers, scales


def quantize(model: ir.Model) -> int:
    """Rewrite every product with a constant matrix, in place. Returns how many there were.

    Embedding tables stay float32, and a tied one is there in both forms.
    """
    rewriter = _Rewriter(model.graph)
    for node in list(model.graph):
        if node.op_type in ("Gemm", "MatMul") and node.domain == "":
            rewriter.rewrite(node)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        if not model.graph.initializers[name].is_graph_output():
            del model.graph.initializers[name]
    define(model)
    return rewriter.count


class _Rewriter:
    """Adds the nodes. Layers that read the same activation share its rounding."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rounded: dict[ir.Value, Rounded] = {}
        self._weights: dict[tuple[str, bool], tuple[ir.Value, ir.Value]] = {}
        self.count = 0

    def rewrite(self, node: ir.Node) -> None:
        """Replace one Gemm or MatMul, if its second operand is a constant matrix."""
        states, weight = node.inputs[0], node.inputs[1]
        if states is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            return
        transposed = bool(_attribute(node, "transB", 0))
        if _attribute(node, "transA", 0) or _attribute(node, "alpha", 1.0) != 1 or _attribute(node, "beta", 1.0) != 1:
            raise ValueError(f"{node.name}: a product with attributes that this pass does not know")
        last, bias = node, node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None and (found := self._addition(node)) is not None and _is_vector(found[1], node.outputs[0]):
            last, bias = found  # of the vocabulary's projection, which is traced apart
        rounded = self._round(states, node)
        integers, scales = self._weight(weight, transposed)
        residual = None
        if (found := self._addition(last)) is not None and _same_shape(found[1], node.outputs[0]):
            last, residual = found
        operands = [value for value in (bias, residual) if value is not None]
        operator = f"Product{'Bias' if bias is not None else ''}{'Add' if residual is not None else ''}"
        replace(self._graph, last, operator, [rounded.values, rounded.scales, integers, scales, *operands], [])
        self._drop(node)
        self.count += 1

    def _addition(self, node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
        """The addition that is a node's only reader, and what it adds to the node's result."""
        result = node.outputs[0]
        uses = list(result.uses())
        if len(uses) != 1 or result.is_graph_output() or uses[0].node.op_type != "Add":
            return None
        other = uses[0].node.inputs[1 - uses[0].idx]
        return None if other is None else (uses[0].node, other)

    def _drop(self, node: ir.Node) -> None:
        """Remove what was replaced, an addition between included."""
        if node.graph is None:  # replaced itself
            return
        for use in list(node.outputs[0].uses()):
            self._drop(use.node)
        self._graph.remove(node, safe=True)

    def _round(self, states: ir.Value, before: ir.Node) -> Rounded:
        if states not in self._rounded:
            node = ir.node("RowQuantize", [states], domain=DOMAIN, num_outputs=2)
            self._graph.insert_before(before, node)
            self._rounded[states] = Rounded(*node.outputs)
        return self._rounded[states]

    def _weight(self, weight: ir.Value, transposed: bool) -> tuple[ir.Value, ir.Value]:
        name = str(weight.name)
        if (name, transposed) not in self._weights:
            if weight.const_value is None:
                raise AssertionError("checked by the caller")
            matrix = weight.const_value.numpy()
            integers, scales = quantize_weight(matrix.T if transposed else matrix)
            self._weights[name, transposed] = (
                self._store(f"{name}.int8", integers), self._store(f"{name}.scale", scales)
            )
        return self._weights[name, transposed]

    def _store(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _is_vector(value: ir.Value, result: ir.Value) -> bool:
    """Whether it is a constant with one number per column of a result."""
    constant, shape = value.const_value, result.shape
    return constant is not None and shape is not None and list(constant.shape) == [shape[-1]]


def _same_shape(value: ir.Value, result: ir.Value) -> bool:
    return value.const_value is None and value.shape is not None and value.shape == result.shape


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
