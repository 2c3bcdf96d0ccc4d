"""The form of a graph that CUDA runs, and that a captured CUDA graph can hold (docs/decisions/0015).

Made of graphs without branches (``places.without_places``). No operator here lacks a kernel on CUDA, none asks how long
something is, and whatever differs from step to step is in an input on the device.
"""

import onnx_ir as ir

from seqserve_export.graphs.places import ATTENTION, SHARED_STATE

READERS, BACK = "readers", "back"  # which row reads each place, and which place each row reads
NO_KEYS = "no_keys"
STEPS = "steps"  # 0 .. length-1


def for_device(model: ir.Model) -> ir.Model:
    """Another form of an encoder or a step graph without branches, over the same weights."""
    made = model.clone()
    graph = made.graph
    for node in list(graph):
        if node.op_type == ATTENTION:
            _free_causal(node)
            if _is_cross(node):
                _read_places(graph, node)
        elif node.op_type == "Clip" and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.INT32:
            _clip_in_two(graph, node)
        elif node.op_type == "Range":
            _count_outside(graph, node)
    _drop_unused(graph)
    return made


def _is_cross(node: ir.Node) -> bool:
    return str(_given(node.inputs[3]).name).startswith(SHARED_STATE)


def _free_causal(node: ir.Node) -> None:
    """Causal or not is the same for one query. The fastest kernel wants it causal, and older ones know nothing else."""
    node.attributes.pop("causal", None)


def _read_places(graph: ir.Graph, node: ir.Node) -> None:
    """Queries in the order of places, results in the order of rows; buffers that are outputs as well.

    On the CPU the attention reads a buffer that is no output. On CUDA it writes to where the output would be; bound to
    the memory of the input, there is nothing to write (no new key), and nothing to copy.
    """
    readers, back = (_input(graph, name, ir.DataType.INT32, ["rows"]) for name in (READERS, BACK))
    query = _given(node.inputs[0])
    if query.shape is None or query.dtype is None:
        raise AssertionError("traced with shapes and types")
    none = _input(graph, NO_KEYS, query.dtype, ["rows", 0, query.shape[2]])
    before = ir.node("Gather", [query, readers], {"axis": 0})
    before.outputs[0].type, before.outputs[0].shape = query.type, query.shape
    graph.insert_before(node, before)
    for index, value in ((0, before.outputs[0]), (1, none), (2, none)):
        node.replace_input_with(index, value)
    result = node.outputs[0]
    after = ir.node("Gather", [result, back], {"axis": 0})
    after.outputs[0].type, after.outputs[0].shape = result.type, result.shape
    ir.convenience.replace_all_uses_with(result, after.outputs[0])
    graph.insert_after(node, after)
    after.replace_input_with(0, result)
    node.resize_outputs(3)
    for buffer, grown in zip(node.inputs[3:5], node.outputs[1:], strict=True):
        state = _given(buffer)
        grown.name, grown.type, grown.shape = f"{state.name}.next", state.type, state.shape
        graph.outputs.append(grown)


def _clip_in_two(graph: ir.Graph, node: ir.Node) -> None:
    """int32 is what Clip has no kernel for, while Max and Min have one."""
    value, low, high = (_given(each) for each in node.inputs)
    lifted = ir.node("Max", [value, low])
    lowered = ir.node("Min", [lifted.outputs[0], high])
    for made in (lifted, lowered):
        made.outputs[0].type, made.outputs[0].shape = value.type, value.shape
    graph.insert_before(node, [lifted, lowered])
    ir.convenience.replace_all_uses_with(node.outputs[0], lowered.outputs[0])
    graph.remove(node)


def _count_outside(graph: ir.Graph, node: ir.Node) -> None:
    """In the encoder, whose length only an operator on the CPU could ask for. In the step the end is an input."""
    end = _given(node.inputs[1])
    if end.is_graph_input():
        return
    result = node.outputs[0]
    steps = _input(graph, STEPS, ir.DataType.INT64, ["length"])
    ir.convenience.replace_all_uses_with(result, steps)


def _input(graph: ir.Graph, name: str, kind: ir.DataType, shape: list[object]) -> ir.Value:
    """An input of the graph, made once."""
    for value in graph.inputs:
        if value.name == name:
            return value
    made = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))  # type: ignore[arg-type]
    graph.inputs.append(made)
    return made


def _drop_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise AssertionError("traced with all of its inputs")
    return value
