"""What a float16 graph computes, as a float32 graph: every value is rounded to float16 where the device rounds it.

The CPU runtime has few float16 kernels. It computes the others in float32 and, between two of them, leaves the rounding
out (its graph passes drop the pair of Casts), so that run there a float16 graph neither loses what it will lose on the
device nor overflows where it will. Here roundings are arithmetic that no pass drops.
"""

import numpy as np
import onnx_ir as ir

# Veltkamp's splitting: with this factor the upper half of a float32 number has the 11 bits of a float16 one.
SPLIT = 2.0**13 + 1
# The largest float16 numbers become the largest float32 ones: what lies beyond becomes infinite, and stays so.
LIFT = 2.0**112
# They copy; what they copy is rounded already.
COPYING = ("Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")


def emulate(model: ir.Model) -> None:
    """Rewrite a float16 graph, in place. Its weights stay float16, so that both can share a weights file.

    Numbers below the smallest normal one of float16, 6e-5, keep all their 11 bits, unlike on the device.
    """
    graph = model.graph
    nodes = list(graph)
    halves = [value for value in graph.initializers.values() if value.dtype == ir.DataType.FLOAT16]
    computed = [
        node.outputs[0] for node in nodes
        if node.op_type not in COPYING and node.outputs[0].dtype == ir.DataType.FLOAT16
    ]
    for value in (*graph.inputs, *(output for node in nodes for output in node.outputs)):
        if value.dtype == ir.DataType.FLOAT16:
            value.dtype = ir.DataType.FLOAT
    for value in halves:
        users = [(use.node, use.idx) for use in value.uses()]
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
        graph.insert_before(nodes[0], cast)
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])
    # The other outputs are caches, which hold copies of rounded values and have to stay where they are in memory.
    for value in computed:
        _round(graph, value)


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let everybody read ``value`` in 11 bits, and infinite beyond the largest float16 number."""
    maker = value.producer()
    if maker is None:
        raise AssertionError("computed")
    users = [(use.node, use.idx) for use in value.uses()]
    places = [place for place, output in enumerate(graph.outputs) if output is value]
    name, shape = value.name, value.shape
    chain = [ir.node("Mul", [value, _constant(graph, "split", SPLIT)])]
    product = chain[0].outputs[0]
    chain.append(ir.node("Sub", [product, value]))
    chain.append(ir.node("Sub", [product, chain[1].outputs[0]]))
    chain.append(ir.node("Mul", [chain[2].outputs[0], _constant(graph, "lift", LIFT)]))
    chain.append(ir.node("Mul", [chain[3].outputs[0], _constant(graph, "lower", 1 / LIFT)]))
    graph.insert_after(maker, chain)
    rounded = chain[-1].outputs[0]
    rounded.dtype, rounded.shape = ir.DataType.FLOAT, shape
    for user, index in users:
        user.replace_input_with(index, rounded)
    for place in places:
        value.name, rounded.name = f"{name}.exact", name
        graph.outputs[place] = rounded


def _constant(graph: ir.Graph, name: str, number: float) -> ir.Value:
    name = f"emulate.{name}"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(number, dtype=np.float32), name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]
