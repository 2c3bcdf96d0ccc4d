"""Linear layers in 8 bits: weights with one scale per output channel, activations with one scale per row.

A scale per row, because the runtime's own dynamic quantisation takes one over the whole batch, and then what a request
gets depends on who else is being served. See docs/decisions/0007.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LEVELS = 127  # symmetric: -127 .. 127 around the zero point
ZERO_POINT = 128  # activations are unsigned, as the fast integer kernels want them
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
    return rewriter.count


class _Rewriter:
    """Adds the nodes. Layers that read the same activation share its rounding."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rounded: dict[ir.Value, Rounded] = {}
        self._weights: dict[tuple[str, bool], tuple[ir.Value, ir.Value]] = {}
        self._constants: dict[str, ir.Value] = {}
        self.count = 0

    def rewrite(self, node: ir.Node) -> None:
        """Replace one Gemm or MatMul, if its second operand is a constant matrix."""
        states, weight = node.inputs[0], node.inputs[1]
        if states is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            return
        transposed = bool(_attribute(node, "transB", 0))
        if _attribute(node, "transA", 0) or _attribute(node, "alpha", 1.0) != 1 or _attribute(node, "beta", 1.0) != 1:
            raise ValueError(f"{node.name}: a product with attributes that this pass does not know")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        rounded = self._round(states, node)
        integers, scales = self._weight(weight, transposed)
        product = self._add(node, "MatMulIntegerToFloat", [
            rounded.values, integers, self._constant("one", np.float32(1)), scales,
            self._constant("zero_point", np.uint8(ZERO_POINT)),
        ], domain="com.microsoft")
        outputs = self._add(node, "Mul", [product, rounded.scales])
        if bias is not None:
            outputs = self._add(node, "Add", [outputs, bias])
        before = node.outputs[0]
        outputs.name, outputs.shape, outputs.type = before.name, before.shape, before.type
        ir.convenience.replace_all_uses_with(before, outputs, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        self.count += 1

    def _round(self, states: ir.Value, before: ir.Node) -> Rounded:
        if states not in self._rounded:
            sizes = self._add(before, "Abs", [states])
            axes = self._constant("last_axis", np.array([-1], dtype=np.int64))
            largest = self._add(before, "ReduceMax", [sizes, axes], {"keepdims": 1})
            scales = self._add(before, "Mul", [largest, self._constant("level", np.float32(1 / LEVELS))])
            scales = self._add(before, "Max", [scales, self._constant("tiny", np.float32(TINY))])
            unit = self._add(before, "Div", [states, scales])
            zero = self._constant("zero_point", np.uint8(ZERO_POINT))
            values = self._add(before, "QuantizeLinear", [unit, self._constant("one", np.float32(1)), zero])
            self._rounded[states] = Rounded(values, scales)
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

    def _constant(self, name: str, value: np.generic | NDArray[np.int64]) -> ir.Value:
        if name not in self._constants:
            self._constants[name] = self._store(f"quantize.{name}", np.asarray(value))
        return self._constants[name]

    def _store(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _add(
        self, before: ir.Node, operator: str, inputs: list[ir.Value], attributes: dict[str, int] | None = None,
        *, domain: str = "",
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes or {}, domain=domain)
        self._graph.insert_before(before, node)
        return node.outputs[0]


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
