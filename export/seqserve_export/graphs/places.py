"""Several hypotheses over one source: cross-attention that reads places of several widths (docs/decisions/0010).

The traced step gives every row a source of its own. Here each such attention becomes an ``If``: its one branch is what
was traced, for steps in which row i reads source i; the other presents the rows of a place as more query heads per key
head over the one source they share, for each width on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

WIDTHS = (1, 4, 8)  # beams are 4 or 5 in most checkpoints, and 8 in Pegasus; what does not fill a place costs time
SHARED_STATE = "cross."
ATTENTION = "GroupQueryAttention"
SOURCE_LENGTHS = "source_lengths"
MADE = "places."  # begins the names of what is made here


@dataclass(frozen=True)
class Inputs:
    """What a graph with places gets besides.

    Attributes:
        mixed: bool scalar: whether the step is more than row i over source i.
        used: bool scalar by width: whether any place of that width is in use.
        rows: int64 [places, width] by width: the row at each offset of a place; any row where there is none.
        back: int64 [rows]: where a row's result lies among those of all places, one width after the other.
        lengths: int32 [places] by width: tokens of a place's source.
    """

    mixed: ir.Value
    used: dict[int, ir.Value]
    rows: dict[int, ir.Value]
    back: ir.Value
    lengths: dict[int, ir.Value]


def add_places(model: ir.Model, heads: int, head_size: int) -> None:
    """Rewrite a traced step graph, in place.

    Inputs of width 1 keep their names; those of other widths are named ``cross.0.x4`` and ``source_lengths.x4``.
    """
    graph = model.graph
    attentions = [
        node for node in graph
        if node.op_type == ATTENTION and str(_given(node.inputs[3]).name).startswith(SHARED_STATE)
    ]
    inputs = add_inputs(graph, [value for value in graph.inputs if str(value.name).startswith(SHARED_STATE)])
    last = _last_places(graph, inputs, _given(attentions[0].inputs[5]))
    shapes = {width: integers(graph, f"places.split.{width}", [-1, width, heads, head_size]) for width in WIDTHS[1:]}
    for number, node in enumerate(attentions):
        _Attention(graph, node, number, inputs, last, shapes, heads, head_size).replace()


def without_places(model: ir.Model) -> None:
    """Undo ``add_places``: every row has a source of its own again."""
    graph = model.graph
    for node in [node for node in graph if node.op_type == "If"]:
        plain = node.attributes["else_branch"].as_graph()
        (result,) = plain.outputs
        nodes = list(plain)
        plain.remove(nodes)
        graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(node.outputs[0], result)
        result.name = node.outputs[0].name
        graph.remove(node)
    graph.remove([node for node in graph if (node.name or "").startswith(MADE)])
    for value in [value for value in graph.inputs if ".x" in str(value.name) or value.name in ("mixed", "back")]:
        graph.inputs.remove(value)
    for name in [name for name in graph.initializers if name.startswith(MADE)]:
        del graph.initializers[name]


def add_inputs(graph: ir.Graph, states: Sequence[ir.Value]) -> Inputs:
    """Give a graph what says where rows find their sources, and those inputs of theirs that are there for each width.

    Args:
        states: The inputs that hold what the rows of a request share, of width 1.
    """
    lengths = next(value for value in graph.inputs if value.name == SOURCE_LENGTHS)
    boolean, integer = ir.TensorType(ir.DataType.BOOL), ir.TensorType(ir.DataType.INT64)

    def add(name: str, kind: ir.TypeProtocol | None, shape: list[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=kind, shape=ir.Shape(shape))
        graph.inputs.append(value)
        return value

    by_width = {1: lengths}
    for width in WIDTHS[1:]:
        by_width[width] = add(f"{SOURCE_LENGTHS}.x{width}", lengths.type, [f"places_{width}"])
        for state in states:
            add(f"{state.name}.x{width}", state.type, [f"places_{width}", *_inner(state)])
    for value in (lengths, *states):
        value.shape = ir.Shape(["places_1", *_inner(value)])
    return Inputs(
        add("mixed", boolean, []),
        {width: add(f"used.x{width}", boolean, []) for width in WIDTHS},
        {width: add(f"rows.x{width}", integer, [f"places_{width}", width]) for width in WIDTHS},
        add("back", integer, ["rows"]), by_width,
    )


def _last_places(graph: ir.Graph, inputs: Inputs, traced: ir.Value) -> dict[int, ir.Value]:
    """int32 [places] by width: index of the last position of a place's source. That of width 1 was traced."""
    last = {1: traced}
    for width in WIDTHS[1:]:
        before = ir.node("Sub", [inputs.lengths[width], _scalar(graph)], name=f"places.last.{width}")
        before.outputs[0].name, before.outputs[0].type = f"places.last.{width}", inputs.lengths[width].type
        graph.insert_before(next(iter(graph)), before)
        last[width] = before.outputs[0]
    return last


@dataclass(frozen=True)
class _Attention:
    """One cross-attention to rewrite; values that it makes are named after its number."""

    graph: ir.Graph
    node: ir.Node
    number: int
    inputs: Inputs
    last: dict[int, ir.Value]
    shapes: dict[int, ir.Value]
    heads: int
    head_size: int

    def replace(self) -> None:
        """By an ``If`` with the same output."""
        node, graph = self.node, self.graph
        before = node.outputs[0]
        mixed = self._mixed()
        choice = ir.node("If", [self.inputs.mixed], {"then_branch": mixed}, name=f"places.{self.number}")
        result = choice.outputs[0]
        result.type, result.shape = before.type, before.shape
        graph.insert_before(node, choice)
        ir.convenience.replace_all_uses_with(before, result)
        name, before.name = before.name, self._name("plain")
        result.name = name
        none = _given(node.inputs[1]).producer()
        nodes = [node] if none is None else [none, node]
        graph.remove(nodes)
        choice.attributes["else_branch"] = ir.AttrGraph(
            "else_branch", ir.Graph([], [before], nodes=nodes, name=self._name("else"))
        )

    def _mixed(self) -> ir.Graph:
        """[rows, 1, width of the model] of rows in places of every width."""
        query = self.node.inputs[0]
        flat_shape = integers(self.graph, "places.flat", [-1, self.heads * self.head_size])
        nodes = [ir.node("Reshape", [query, flat_shape])]
        flat = nodes[0].outputs[0]
        parts = []
        for width in WIDTHS:
            branches = {
                "then_branch": self._of_width(flat, flat_shape, width), "else_branch": self._none(flat, width)
            }
            nodes.append(ir.node("If", [self.inputs.used[width]], branches))
            parts.append(nodes[-1].outputs[0])
        nodes.append(ir.node("Concat", parts, {"axis": 0}))
        nodes.append(ir.node("Gather", [nodes[-1].outputs[0], self.inputs.back], {"axis": 0}))
        nodes.append(ir.node("Unsqueeze", [nodes[-1].outputs[0], integers(self.graph, "places.axis", [1])]))
        return self._subgraph(nodes, "mixed")

    def _of_width(self, flat: ir.Value, flat_shape: ir.Value, width: int) -> ir.Graph:
        """[places * width, width of the model]: what each place's rows attend to."""
        graph, size = self.graph, self.heads * self.head_size
        keys, values = (_given(value) for value in self.node.inputs[3:5])
        if width > 1:
            keys, values = (self._input(f"{value.name}.x{width}") for value in (keys, values))
        nodes = [ir.node("Gather", [flat, self.inputs.rows[width]], {"axis": 0})]  # [places, width, size]
        if width > 1:  # the heads that read one key head stand together
            nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], self.shapes[width]]))
            nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": [0, 2, 1, 3]}))
        packed = integers(graph, f"places.packed.{width}", [-1, 1, width * size])
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], packed]))
        query = nodes[-1].outputs[0]
        # No new keys: the attention takes [places, 0, size] for them.
        nodes.append(ir.node("Slice", [
            query, integers(graph, "places.from", [0, 0]), integers(graph, f"places.to.{size}", [0, size]),
            integers(graph, "places.axes", [1, 2]),
        ]))
        none = nodes[-1].outputs[0]
        attributes = dict(self.node.attributes)
        attributes["num_heads"] = ir.AttrInt64("num_heads", width * self.heads)
        nodes.append(ir.Node(
            self.node.domain, ATTENTION,
            [query, none, none, keys, values, self.last[width], self.node.inputs[6]], list(attributes.values()),
        ))
        if width > 1:
            apart = integers(graph, f"places.apart.{width}", [-1, self.heads, width, self.head_size])
            nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], apart]))
            nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": [0, 2, 1, 3]}))
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], flat_shape]))
        return self._subgraph(nodes, f"width.{width}")

    def _none(self, flat: ir.Value, width: int) -> ir.Graph:
        """[0, width of the model]: the attention operator does not survive an empty batch."""
        zero = integers(self.graph, "places.zero", [0])
        return self._subgraph([ir.node("Slice", [flat, zero, zero])], f"none.{width}")

    def _input(self, name: str) -> ir.Value:
        return next(value for value in self.graph.inputs if value.name == name)

    def _subgraph(self, nodes: list[ir.Node], name: str) -> ir.Graph:
        for place, node in enumerate(nodes):
            node.name = self._name(f"{name}.{place}")
            node.outputs[0].name = node.name
            node.outputs[0].type = _given(self.node.inputs[0]).type
        return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name=self._name(name))

    def _name(self, part: str) -> str:
        return f"places.{self.number}.{part}"


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise AssertionError("traced with all of its inputs")
    return value


def _inner(state: ir.Value) -> list[int | str]:
    """Sizes of a state but the first."""
    if state.shape is None:
        raise AssertionError("inputs have shapes")
    return [size if isinstance(size, int) else str(size) for size in state.shape.dims[1:]]


def integers(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    """An int64 initializer, made once."""
    if name not in graph.initializers:
        tensor = ir.tensor(numbers, dtype=ir.DataType.INT64, name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]


def _scalar(graph: ir.Graph) -> ir.Value:
    """The int32 initializer 1."""
    name = "places.one"
    if name not in graph.initializers:
        tensor = ir.tensor(1, dtype=ir.DataType.INT32, name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]
