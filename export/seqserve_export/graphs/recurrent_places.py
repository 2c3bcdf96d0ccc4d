"""Several hypotheses over one source, for the recurrent step: what ``places`` does for the Transformer's.

The traced step gives every row a source of its own. Its attention, two operators of our own that read queries and
sources, becomes an ``If``: one branch is what was traced, the other has the rows of a place as several queries to its
source, for each width on its own.
"""

from dataclasses import dataclass

import onnx_ir as ir

from seqserve_export.graphs.places import MADE, WIDTHS, Inputs, add_inputs, integers

SHARED = ("keys.", "values.")
SCORES, POOLS = ("SumScores", "DotScores"), ("Pool", "PoolMonotonic", "PoolPredicted")


def add_recurrent_places(model: ir.Model, width: int) -> None:
    """Rewrite a traced step graph, in place; inputs are named as by ``places.add_places``.

    Args:
        width: Of queries, as the scores get them.
    """
    graph = model.graph
    shared = [value for value in graph.inputs if str(value.name).startswith(SHARED)]
    (scores,) = (node for node in graph if node.op_type in SCORES)
    (pool,) = (node for node in graph if node.op_type in POOLS)
    _Attention(graph, scores, pool, width, add_inputs(graph, shared)).replace()


@dataclass(frozen=True)
class _Attention:
    """The two nodes, and what rewriting them takes."""

    graph: ir.Graph
    scores: ir.Node
    pool: ir.Node
    query_width: int
    inputs: Inputs

    def replace(self) -> None:
        """By an ``If`` with the same context [rows, 1, hidden]; a step has no use for the weights."""
        graph, before = self.graph, self.pool.outputs[0]
        choice = ir.node("If", [self.inputs.mixed], {"then_branch": self._mixed()}, name=f"{MADE}0")
        result = choice.outputs[0]
        result.type, result.shape = before.type, before.shape
        graph.insert_after(self.pool, choice)
        ir.convenience.replace_all_uses_with(before, result)
        nodes = [self.scores, self.pool]
        graph.remove(nodes)
        result.name, before.name = before.name, f"{MADE}plain"
        choice.attributes["else_branch"] = ir.AttrGraph(
            "else_branch", ir.Graph([], [before], nodes=nodes, name=f"{MADE}else")
        )

    def _mixed(self) -> ir.Graph:
        """[rows, 1, hidden] of rows in places of every width."""
        flat = ir.node("Reshape", [self.scores.inputs[0], self._sizes("flat", [-1, self.query_width])])
        nodes, parts = [flat], []
        for width in WIDTHS:
            branches = {
                "then_branch": self._of_width(flat.outputs[0], width), "else_branch": self._none(width)
            }
            nodes.append(ir.node("If", [self.inputs.used[width]], branches))
            parts.append(nodes[-1].outputs[0])
        nodes.append(ir.node("Concat", parts, {"axis": 0}))
        nodes.append(ir.node("Gather", [nodes[-1].outputs[0], self.inputs.back], {"axis": 0}))
        nodes.append(ir.node("Unsqueeze", [nodes[-1].outputs[0], self._sizes("axis", [1])]))
        return self._subgraph(nodes, "mixed")

    def _of_width(self, flat: ir.Value, width: int) -> ir.Graph:
        """[places * width, hidden]: what each place's rows attend to. An offset that no row has reads some row."""
        rows = self.inputs.rows[width]
        query = ir.node("Gather", [flat, rows], {"axis": 0})  # [places, width, query width]
        _, keys, *rest = self.scores.inputs
        scores = ir.Node(
            self.scores.domain, self.scores.op_type, [query.outputs[0], self._shared(keys, width), *rest]
        )
        _, values, _, extent, *centre = self.pool.inputs
        nodes = [query, scores]
        given: list[ir.Value | None] = [
            scores.outputs[0], self._shared(values, width), self.inputs.lengths[width], extent
        ]
        for each in centre:
            column = ir.node("Reshape", [each, self._sizes("row", [-1])])
            nodes += [column, ir.node("Gather", [column.outputs[0], rows], {"axis": 0})]
            given.append(nodes[-1].outputs[0])
        pool = ir.Node(self.pool.domain, self.pool.op_type, given, list(self.pool.attributes.values()), num_outputs=2)
        size = self._hidden_width()
        return self._subgraph([
            *nodes, pool, ir.node("Reshape", [pool.outputs[0], self._sizes("result", [-1, size])])
        ], f"width.{width}")

    def _none(self, width: int) -> ir.Graph:
        """[0, hidden], of a width that nobody has."""
        nothing = ir.node("ConstantOfShape", [self._sizes("nothing", [0, self._hidden_width()])])
        return self._subgraph([nothing], f"none.{width}")

    def _hidden_width(self) -> int:
        shape = self.pool.outputs[0].shape
        if shape is None or not isinstance(shape[2], int):
            raise AssertionError("traced with a width")
        return shape[2]

    def _shared(self, value: ir.Value | None, width: int) -> ir.Value:
        """A buffer of places of a width."""
        if value is None:
            raise AssertionError("traced with all of its inputs")
        if width == 1:
            return value
        return next(each for each in self.graph.inputs if each.name == f"{value.name}.x{width}")

    def _sizes(self, name: str, values: list[int]) -> ir.Value:
        return integers(self.graph, f"{MADE}{name}", values)

    def _subgraph(self, nodes: list[ir.Node], name: str) -> ir.Graph:
        """Of these nodes; the last one's first output is the result."""
        kind = self.pool.outputs[0].type
        for place, node in enumerate(nodes):
            node.name = f"{MADE}{name}.{place}"
            for number, value in enumerate(node.outputs):
                value.name = node.name if number == 0 else f"{node.name}.{number}"
                value.type = kind
        return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name=f"{MADE}{name}")
