"""Which operators a graph file has, and which of them are refused."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from seqserve.bundle import BundleError
from seqserve_export.graphs import trace
from seqserve_export.graphs.kernels import use_kernels
from seqserve_export.graphs.quantize import quantize
from seqserve_server.graph_operators import operators, refuse_coupling
from tiny_model import tiny_model


def graph(operator: str, *, inside: bool = False) -> bytes:
    """A model with one node, at the top or in the branch of an If."""
    inner = helper.make_graph([helper.make_node(operator, ["x"], ["y", "scale", "zero"])], "inner", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner) if inside else inner.node[0]
    weight = helper.make_tensor("DynamicQuantizeLinear", TensorProto.FLOAT, [4], [1, 2, 3, 4])
    return helper.make_model(helper.make_graph([node], "top", [], [], [weight])).SerializeToString()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("operator", ["DynamicQuantizeLinear", "MatMulNBits"])
def test_a_graph_that_couples_rows_is_refused(tmp_path: Path, operator: str, inside: bool) -> None:
    (tmp_path / "decoder.onnx").write_bytes(graph(operator, inside=inside))
    with pytest.raises(BundleError, match=rf"decoder\.onnx: {operator}: results would depend on the other requests"):
        refuse_coupling(tmp_path / "decoder.onnx")


@pytest.mark.parametrize("operator", ["BatchNormalization", "QAttention", "MatMulInteger"])
def test_operators_that_compute_every_row_by_itself_are_taken(tmp_path: Path, operator: str) -> None:
    (tmp_path / "decoder.onnx").write_bytes(graph(operator))
    refuse_coupling(tmp_path / "decoder.onnx")


@pytest.mark.parametrize("as_default", [False, True])
def test_a_model_local_function_that_couples_rows_is_refused(tmp_path: Path, as_default: bool) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    function = helper.make_function("local", "Harmless", ["x"], ["y"], [node], opsets)
    if as_default:
        branch = helper.make_attribute("branch", helper.make_graph([node], "inner", [], []))
        function = helper.make_function(
            "local", "Harmless", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets,
            attribute_protos=[branch],
        )
    call = helper.make_node("Harmless", ["x"], ["y"], domain="local")
    model = helper.make_model(
        helper.make_graph([call], "top", [], []), functions=[function], opset_imports=opsets
    )
    (tmp_path / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"decoder\.onnx: DynamicQuantizeLinear: results would depend"):
        refuse_coupling(tmp_path / "decoder.onnx")


def field(number: int, content: bytes) -> bytes:
    """One length-delimited field of the wire format."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_subgraphs_nested_without_end_are_one_line(tmp_path: Path) -> None:
    nested = b""
    for _ in range(3000):
        nested = field(1, field(5, field(6, nested)))  # graph.node.attribute.g
    (tmp_path / "decoder.onnx").write_bytes(field(7, nested))
    with pytest.raises(BundleError, match=r"^decoder\.onnx: not an ONNX graph$"):
        refuse_coupling(tmp_path / "decoder.onnx")


def names(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Operators in file order, those of branches behind the one that has them."""
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            yield from names(attribute.g.node)


def test_operators_are_those_that_onnx_reads() -> None:
    for traced in (trace.trace_encoder(tiny_model()), trace.trace_decoder(tiny_model())):
        use_kernels(traced)
        quantize(traced)
        model = onnx_ir.to_proto(traced)
        content = model.SerializeToString()
        bodies = [names(function.node) for function in model.functions]
        assert list(operators(content)) == list(chain(names(model.graph.node), *bodies))
    assert list(operators(graph("Relu"))) == ["Relu"]  # the weight's name is no operator


@pytest.mark.parametrize("content", [b"", b"not a graph", graph("Relu")[:-3]])
def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "decoder.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.onnx: not an ONNX graph"):
        refuse_coupling(tmp_path / "decoder.onnx")
