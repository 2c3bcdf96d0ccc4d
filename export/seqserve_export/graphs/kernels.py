"""Operators of our own, each defined by the runtime's: a function that the graph carries.

A runtime that has the server's compiled operators (server/native) runs those. Any other puts the function's body in
the node's place, which is just what stood there before. See docs/decisions/0016.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import onnx.parser
import onnx_ir as ir

from seqserve_export.graphs.source_operators import OVER_SOURCES

DOMAIN = "seqserve"
# Rounding is explained in docs/decisions/0007; 0.007874016 is 1 / 127 and 1e-12 the scale of a row of zeros.
DEFINITIONS = """
RowQuantize (values) => (rounded, scales) {
    last = Constant <value_ints: ints = [-1]> ()
    level = Constant <value_float: float = 0.007874016> ()
    tiny = Constant <value_float: float = 1e-12> ()
    one = Constant <value_float: float = 1.0> ()
    zero = Constant <value: tensor = uint8 {128}> ()
    sizes = Abs (values)
    largest = ReduceMax <keepdims: int = 1> (sizes, last)
    each = Mul (largest, level)
    scales = Max (each, tiny)
    units = Div (values, scales)
    rounded = QuantizeLinear (units, one, zero)
}
Scale (product, scales) => (result) {
    result = Mul (product, scales)
}
ScaleBias (product, scales, bias) => (result) {
    scaled = Mul (product, scales)
    result = Add (scaled, bias)
}
ScaleAdd (product, scales, residual) => (result) {
    scaled = Mul (product, scales)
    result = Add (scaled, residual)
}
ScaleBiasAdd (product, scales, bias, residual) => (result) {
    scaled = Mul (product, scales)
    biased = Add (scaled, bias)
    result = Add (biased, residual)
}
Product (rounded, scales, weight, column_scales) => (result) {
    one = Constant <value_float: float = 1.0> ()
    zero = Constant <value: tensor = uint8 {128}> ()
    product = com.microsoft.MatMulIntegerToFloat (rounded, weight, one, column_scales, zero)
    result = seqserve.Scale (product, scales)
}
ProductBias (rounded, scales, weight, column_scales, bias) => (result) {
    one = Constant <value_float: float = 1.0> ()
    zero = Constant <value: tensor = uint8 {128}> ()
    product = com.microsoft.MatMulIntegerToFloat (rounded, weight, one, column_scales, zero)
    result = seqserve.ScaleBias (product, scales, bias)
}
ProductAdd (rounded, scales, weight, column_scales, residual) => (result) {
    one = Constant <value_float: float = 1.0> ()
    zero = Constant <value: tensor = uint8 {128}> ()
    product = com.microsoft.MatMulIntegerToFloat (rounded, weight, one, column_scales, zero)
    result = seqserve.ScaleAdd (product, scales, residual)
}
ProductBiasAdd (rounded, scales, weight, column_scales, bias, residual) => (result) {
    one = Constant <value_float: float = 1.0> ()
    zero = Constant <value: tensor = uint8 {128}> ()
    product = com.microsoft.MatMulIntegerToFloat (rounded, weight, one, column_scales, zero)
    result = seqserve.ScaleBiasAdd (product, scales, bias, residual)
}
SelfAttention <num_heads, kv_num_heads, scale> (packed, keys, values, last, extent) => (result, new_keys, new_values) {
    result, new_keys, new_values = com.microsoft.GroupQueryAttention <
        num_heads: int = @num_heads, kv_num_heads: int = @kv_num_heads, scale: float = @scale, causal: int = 0
    > (packed, , , keys, values, last, extent)
}
BiasedSelfAttention <num_heads, kv_num_heads, scale>
(packed, keys, values, last, extent, bias) => (result, new_keys, new_values) {
    result, new_keys, new_values = com.microsoft.GroupQueryAttention <
        num_heads: int = @num_heads, kv_num_heads: int = @kv_num_heads, scale: float = @scale, causal: int = 0
    > (packed, , , keys, values, last, extent, , , , bias)
}
CrossAttention <num_heads, kv_num_heads, scale> (query, keys, values, last, extent, none_new) => (result) {
    result = com.microsoft.GroupQueryAttention <
        num_heads: int = @num_heads, kv_num_heads: int = @kv_num_heads, scale: float = @scale, causal: int = 0
    > (query, none_new, none_new, keys, values, last, extent)
}
Retain (query, key, value, state, decay) => (result, new_state) {
    column = Constant <value_ints: ints = [3]> ()
    line = Constant <value_ints: ints = [2]> ()
    kept = Mul (state, decay)
    keys = Unsqueeze (key, column)
    values = Unsqueeze (value, line)
    added = Mul (keys, values)
    new_state = Add (kept, added)
    asked = Unsqueeze (query, line)
    sums = MatMul (asked, new_state)
    result = Squeeze (sums, line)
}
PackedAttention <num_heads, scale> (packed, lengths, pad_index, pack_index) => (result) {
    padded = Gather <axis: int = 0> (packed, pad_index)
    query, key, value = Split <axis: int = -1, num_outputs: int = 3> (padded)
    heads = com.microsoft.MultiHeadAttention <num_heads: int = @num_heads, scale: float = @scale>
        (query, key, value, , lengths)
    flat = Flatten <axis: int = 2> (heads)
    result = Gather <axis: int = 0> (flat, pack_index)
}
BiasedPackedAttention <num_heads, scale> (packed, lengths, pad_index, pack_index, bias) => (result) {
    padded = Gather <axis: int = 0> (packed, pad_index)
    query, key, value = Split <axis: int = -1, num_outputs: int = 3> (padded)
    heads = com.microsoft.MultiHeadAttention <num_heads: int = @num_heads, scale: float = @scale>
        (query, key, value, , lengths, bias)
    flat = Flatten <axis: int = 2> (heads)
    result = Gather <axis: int = 0> (flat, pack_index)
}
TopCandidates (logits, count) => (log_probs, ids) {
    every = LogSoftmax <axis: int = -1> (logits)
    log_probs, ids = TopK <axis: int = -1, largest: int = 1, sorted: int = 1> (every, count)
}
"""
OPSETS = 'opset_import: ["" : 20, "com.microsoft" : 1, "seqserve" : 1]'


def definitions() -> dict[str, ir.Function]:
    """All operators by name."""
    texts = re.split(r"\n(?=[A-Z])", (DEFINITIONS + OVER_SOURCES).strip())
    found = (onnx.parser.parse_function(f'<{OPSETS}, domain: "{DOMAIN}">{text}') for text in texts)
    return {function.name: ir.from_proto(function) for function in found}


def define(model: ir.Model) -> None:
    """Give a graph the definitions of those operators that it uses, and of no others."""
    known = definitions()
    used = waiting = _own(model.graph.all_nodes())
    while waiting:  # definitions use definitions
        waiting = set().union(*(_own(known[name]) for name in waiting)) - used
        used |= waiting
    if used:
        model.opset_imports[DOMAIN] = 1
        model.opset_imports.setdefault("com.microsoft", 1)
    model.functions.clear()
    for name in sorted(used):
        model.functions[known[name].identifier()] = known[name]


def _own(nodes: Iterable[ir.Node]) -> set[str]:
    return {node.op_type for node in nodes if node.domain == DOMAIN}


def use_kernels(model: ir.Model) -> None:
    """Put the operators where a traced graph has what they stand for, in place, subgraphs included."""
    for graph in [model.graph, *_subgraphs(model.graph)]:
        for node in list(graph):
            if node.op_type == "GroupQueryAttention":
                _use_step_attention(graph, node)
            elif node.op_type == "TopK":
                _use_top_candidates(graph, node)
            elif node.op_type == "MultiHeadAttention":
                _use_packed_attention(graph, node)
        _drop_unused(graph)
    define(model)


def _use_step_attention(graph: ir.Graph, node: ir.Node) -> None:
    packed, new, _, keys, values, last, extent, *rest = node.inputs
    attributes = [node.attributes[name] for name in ("num_heads", "kv_num_heads", "scale")]
    if new is not None:
        replace(graph, node, "CrossAttention", [packed, keys, values, last, extent, new], attributes)
    elif len(rest) > 3:
        replace(graph, node, "BiasedSelfAttention", [packed, keys, values, last, extent, rest[3]], attributes)
    else:
        replace(graph, node, "SelfAttention", [packed, keys, values, last, extent], attributes)


def _use_top_candidates(graph: ir.Graph, node: ir.Node) -> None:
    log_probs, count = node.inputs
    normed = _maker(log_probs)
    if normed is not None and normed.op_type == "LogSoftmax":
        replace(graph, node, "TopCandidates", [normed.inputs[0], count], [])


def _use_packed_attention(graph: ir.Graph, node: ir.Node) -> None:
    """Where queries, keys and values are one padded tensor's parts, and the result is packed again."""
    query, key, value, _, lengths, *bias = node.inputs
    split, flat = _maker(query), _only_user(node.outputs[0])
    pack = None if flat is None else _only_user(flat.outputs[0])
    if split is None or split.op_type != "Split" or [query, key, value] != list(split.outputs) or pack is None:
        return
    pad = _maker(split.inputs[0])
    if pad is None or pad.op_type != "Gather" or pack.op_type != "Gather" or lengths is None:
        return
    inputs = [pad.inputs[0], lengths, pad.inputs[1], pack.inputs[1]]
    attributes = [node.attributes[name] for name in ("num_heads", "scale")]
    if bias and bias[0] is not None:
        replace(graph, pack, "BiasedPackedAttention", [*inputs, bias[0]], attributes)
    else:
        replace(graph, pack, "PackedAttention", inputs, attributes)


def replace(
    graph: ir.Graph, node: ir.Node, operator: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr]
) -> None:
    """A node by one of our operators with the same outputs."""
    made = ir.Node(DOMAIN, operator, inputs, attributes, num_outputs=len(node.outputs), name=node.name)
    graph.insert_before(node, made)
    for before, after in zip(node.outputs, made.outputs, strict=True):
        after.name, after.shape, after.type = before.name, before.shape, before.type
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _only_user(value: ir.Value) -> ir.Node | None:
    users = value.uses()
    return next(iter(users)).node if len(users) == 1 else None


def _subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()
                yield from _subgraphs(attribute.as_graph())


def _drop_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
