"""The form of graphs that CUDA runs: every operator has a kernel there, nothing branches or asks for a length.

The kernels are those of ONNX Runtime's own list (docs/OperatorKernels.md of microsoft/onnxruntime, of the provider for
CUDA) with the types of their first input. No GPU was asked.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from built_bundle import Built
from device_bundle import plain_graphs, write_device_bundle
from seqserve.bundle import DECODER_FILE, ENCODER_FILE
from seqserve_export.graphs.device import for_device
from seqserve_export.graphs.halve import halve
from seqserve_export.graphs.places import without_places

ANY = {"FLOAT16", "FLOAT", "INT32", "INT64"}
KERNELS = {
    "Add": {"FLOAT16", "FLOAT", "INT32", "INT64"}, "Cast": ANY, "Clip": {"FLOAT16", "FLOAT", "INT64"}, "Gather": ANY,
    "Gelu": {"FLOAT16", "FLOAT"}, "Gemm": {"FLOAT16", "FLOAT"}, "GroupQueryAttention": {"FLOAT16"},
    "LayerNormalization": {"FLOAT16", "FLOAT"}, "LogSoftmax": {"FLOAT16", "FLOAT"},
    "Max": {"FLOAT16", "FLOAT", "INT32", "INT64"}, "Min": {"FLOAT16", "FLOAT", "INT32", "INT64"},
    "Mul": {"FLOAT16", "FLOAT", "INT32", "INT64"}, "MultiHeadAttention": {"FLOAT16", "FLOAT"},
    "Range": {"FLOAT", "INT32", "INT64"}, "Relu": {"FLOAT16", "FLOAT"}, "Reshape": ANY,
    "Sigmoid": {"FLOAT16", "FLOAT"}, "SimplifiedLayerNormalization": {"FLOAT16", "FLOAT"}, "Slice": ANY, "Split": ANY,
    "Sub": {"FLOAT16", "FLOAT", "INT32", "INT64"},
    "TopK": {"FLOAT16", "FLOAT", "INT32", "INT64"}, "Transpose": ANY, "Unsqueeze": ANY,
}
ON_THE_HOST = ("target_extent", "source_extent", "candidates")  # what kernels read in host memory, by their definition


@pytest.fixture(scope="module")
def directory(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("graphs") / "bundle"
    write_device_bundle(built, made, half=True)
    return made


@pytest.fixture(params=[ENCODER_FILE, DECODER_FILE])
def graph(request: pytest.FixtureRequest, directory: Path) -> ir.Graph:
    return ir.load(directory / request.param).graph


def lacking(graph: ir.Graph) -> list[tuple[str, str]]:
    """Operators, with the type of their first input, that CUDA has no kernel for."""
    kinds = [(node.op_type, node.inputs[0]) for node in graph]
    named = [(name, "" if value is None or value.dtype is None else value.dtype.name) for name, value in kinds]
    return [(name, kind) for name, kind in named if kind not in KERNELS.get(name, set())]


def test_every_operator_has_a_kernel_on_cuda(graph: ir.Graph) -> None:
    assert lacking(graph) == []


def test_without_it_relative_positions_had_none_and_empty_keys_were_cut_out(built: Built) -> None:
    model = ir.load(plain_graphs(built) / DECODER_FILE)
    without_places(model)
    halve(model)
    relative = built.checkpoint.transformer.config.positions == "relative"
    assert set(lacking(model.graph)) == ({("Clip", "INT32")} if relative else set())
    assert any(node.op_type == "Slice" for node in model.graph)
    assert not any(node.op_type in ("Slice", "Shape", "If") for node in for_device(model).graph)


def test_what_a_step_reads_in_host_memory_is_fixed_when_it_is_captured(directory: Path) -> None:
    """Three scalars, which are the same for as long as the buffers are, and which only such kernels read."""
    graph = ir.load(directory / DECODER_FILE).graph
    host = {("GroupQueryAttention", 6), ("TopK", 1), ("Range", 1)}
    for value in graph.inputs:
        places = {(use.node.op_type, use.idx) for use in value.uses()}
        assert (value.name in ON_THE_HOST) == bool(places & host), value.name
        assert not (places & host) or places <= host


def test_cross_attention_reads_in_the_order_of_places_and_its_buffers_are_outputs(directory: Path) -> None:
    graph = ir.load(directory / DECODER_FILE).graph
    outputs = {value.name for value in graph.outputs}
    cross = [node for node in graph if node.op_type == "GroupQueryAttention" and node.inputs[1] is not None]
    assert cross
    for node in cross:
        names = [None if value is None else value.name for value in node.inputs]
        before, (after,) = node.inputs[0], [use.node for use in node.outputs[0].uses()]
        maker = None if before is None else before.producer()
        assert maker is not None
        assert (maker.op_type, after.op_type) == ("Gather", "Gather")
        assert [value and value.name for value in (maker.inputs[1], after.inputs[1])] == ["readers", "back"]
        assert names[1:3] == ["no_keys", "no_keys"]
        assert [value.name for value in node.outputs[1:]] == [f"{name}.next" for name in names[3:5]]
        assert {value.name for value in node.outputs[1:]} <= outputs
    for node in graph:
        assert "causal" not in node.attributes, "the fastest kernel wants it causal, which is the default"


def test_the_graph_that_it_is_made_of_is_left_as_it_was(built: Built) -> None:
    model = ir.load(plain_graphs(built) / DECODER_FILE)
    without_places(model)

    def facts() -> tuple[object, ...]:
        graph = model.graph
        counted = Counter((node.op_type, len(node.inputs), len(node.outputs), len(node.attributes)) for node in graph)
        return counted, [value.name for value in (*graph.inputs, *graph.outputs)], sorted(graph.initializers)

    before = facts()
    made = for_device(model)
    assert facts() == before
    assert made.graph is not model.graph


def test_a_clip_of_integers_is_the_same_in_two_operators() -> None:
    x, y = (ir.Value(name=name, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["n"])) for name in "xy")
    bounds = [
        ir.Value(name=name, const_value=ir.tensor(np.array(number, np.int32), name=name),
                 type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([]))
        for name, number in (("low", 0), ("high", 5))
    ]
    nodes = [ir.node("Clip", [x, *bounds])]
    nodes.append(ir.node("Identity", [nodes[0].outputs[0]], outputs=[y]))
    graph = ir.Graph([x], [y], nodes=nodes, initializers=bounds, name="g", opset_imports={"": 20})
    made = for_device(ir.Model(graph, ir_version=10))
    assert [each.op_type for each in made.graph] == ["Max", "Min", "Identity"]
    session = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([-3, 0, 4, 5, 9], np.int32)})[0].tolist() == [0, 0, 4, 5, 5]
