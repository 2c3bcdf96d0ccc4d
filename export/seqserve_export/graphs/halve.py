"""Float16 graphs: weights, states and arithmetic in half precision, the choice of tokens in float32.

What stays in float32 and why, and why sums that no norm brings back to size are kept at a 64th: docs/decisions/0008.
"""

import numpy as np
import onnx_ir as ir

from seqserve_export.errors import ExportError

LARGEST = 65504.0  # of float16
SHRINK = 2.0**-6  # of sums that grow: a power of two, so that it rounds nothing
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")
CHOICE = ("LogSoftmax", "TopK")


def halve(model: ir.Model) -> None:
    """Rewrite a float32 graph to float16, in place. Names, shapes and integer inputs stay.

    Raises:
        ExportError: naming the first tensor with a value that float16 does not have.
    """
    graph = model.graph
    _shrink_sums(graph)
    wide = _choosing_nodes(graph)
    kept = {output for node in wide for output in node.outputs}
    for name, value in graph.initializers.items():
        only_wide = value.uses() and all(use.node in wide for use in value.uses())
        if value.dtype != ir.DataType.FLOAT or only_wide:
            continue
        value.const_value = _half(name, value.const_value)
        value.dtype = ir.DataType.FLOAT16
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == ir.DataType.FLOAT and value not in kept:
            value.dtype = ir.DataType.FLOAT16
    _widen(graph, wide)


def _half(name: str, tensor: ir.TensorProtocol | None) -> ir.TensorProtocol:
    if tensor is None:
        raise AssertionError("an initializer has a value")
    values = tensor.numpy()
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST:  # not a number, too
        raise ExportError(f"--precision fp16: {name}: holds {largest:.6g}, and float16 ends at {LARGEST:.0f}")
    return ir.tensor(values.astype(np.float16), name=name)


def _choosing_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Everything after the last product: its bias, which hides suppressed tokens at -1e12, log-softmax and top-k."""
    nodes = {node for node in graph if node.op_type in CHOICE}
    waiting = list(nodes)
    while waiting:
        for value in waiting.pop().inputs:
            before = None if value is None or value.dtype != ir.DataType.FLOAT else value.producer()
            if before is not None and before not in nodes and before.op_type not in ("Gemm", "MatMul"):
                nodes.add(before)
                waiting.append(before)
    return nodes


def _widen(graph: ir.Graph, wide: set[ir.Node]) -> None:
    """A Cast for every half value that the float32 part reads. A product that is an output becomes float32 there."""
    casts: dict[ir.Value, ir.Value] = {}
    for node in [node for node in graph if node in wide]:
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT16:
                continue
            if value not in casts:
                cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
                graph.insert_before(node, cast)
                casts[value] = cast.outputs[0]
                _take_place(graph, value, cast.outputs[0])
            node.replace_input_with(index, casts[value])


def _take_place(graph: ir.Graph, half: ir.Value, widened: ir.Value) -> None:
    """Type and shape; and name and place among the outputs, where the half value was one."""
    widened.dtype, widened.shape = ir.DataType.FLOAT, half.shape
    for place, output in enumerate(graph.outputs):
        if output is half:
            name, half.name = half.name, f"{half.name}.half"
            widened.name = name
            graph.outputs[place] = widened


def _shrink_sums(graph: ir.Graph) -> None:
    """Compute the residual streams of pre-norm stacks, which nothing keeps small, at ``SHRINK`` of their size.

    Norms alone read them, and to a norm the size is all one (its epsilon shrinks along). The products that are added
    shrink before they are rounded, by their ``alpha``; so neither they nor the sums overflow before 4 million.
    """
    adds = {node.outputs[0]: parts for node in graph if (parts := _carry_and_product(node)) is not None}
    carried = {carry for carry, _ in adds.values()}
    stream = [total for total, (carry, _) in adds.items() if carry in adds or total in carried]
    readers = {use.node for total in stream for use in total.uses() if use.node.outputs[0] not in stream}
    if not all(node.op_type in NORMS for node in readers) or any(total.is_graph_output() for total in stream):
        return
    for node in readers:
        _multiply(node, "epsilon", SHRINK**2)
    entries: dict[ir.Value, ir.Value] = {}
    for total in stream:
        carry, product = adds[total]
        for name in ("alpha", "beta"):
            _multiply(_producer(product), name, SHRINK)
        if carry in stream:
            continue
        add = _producer(total)
        if carry not in entries:
            entries[carry] = _shrunk(graph, carry, add)
        add.replace_input_with(add.inputs.index(carry), entries[carry])


def _carry_and_product(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The operands of an addition, if one is a product that nobody else reads, and the other no constant."""
    if node.op_type != "Add":
        return None
    for product, carry in (node.inputs, node.inputs[::-1]):
        if product is None or carry is None or carry.const_value is not None:
            continue
        maker = product.producer()
        if maker is not None and maker.op_type == "Gemm" and len(product.uses()) == 1 and not product.is_graph_output():
            return carry, product
    return None


def _shrunk(graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
    name = "halve.shrink"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(SHRINK, dtype=np.float32), name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    node = ir.node("Mul", [value, graph.initializers[name]])
    graph.insert_before(before, node)
    shrunk = node.outputs[0]
    shrunk.shape = value.shape
    if value.dtype is not None:
        shrunk.dtype = value.dtype
    return shrunk


def _multiply(node: ir.Node, attribute: str, factor: float) -> None:
    before = node.attributes[attribute].as_float() if attribute in node.attributes else {"epsilon": 1e-5}.get(
        attribute, 1.0
    )
    node.attributes[attribute] = ir.AttrFloat32(attribute, before * factor)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise AssertionError("computed, as the caller saw")
    return node
