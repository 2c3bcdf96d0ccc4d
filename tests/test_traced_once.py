"""A graph that is kept is that of the same model, options and code, and of no other."""

import copy
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch

import traced_once
from cli_process import start
from seqserve_export.graphs import encoder, trace
from seqserve_export.model import Transformer
from tiny_model import tiny_model


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was traced, in place of being looked up."""
    found: list[object] = []

    def export(graph: torch.nn.Module, inputs: tuple[Any, ...], **options: Any) -> traced_once.Program:
        found.append(graph)
        value = onnx_ir.val("x", onnx_ir.DataType.FLOAT, [1])
        graph_ir = onnx_ir.Graph([value], [value], nodes=[], opset_imports={"": 20}, name=f"number {len(found)}")
        return traced_once.Program(onnx_ir.Model(graph_ir, ir_version=10))

    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export)  # put back at the end
    monkeypatch.setattr(traced_once, "EXPORT", export)
    traced_once.trace_once(tmp_path)
    return found


def name_of(model: Transformer) -> str | None:
    return trace.trace_encoder(model).graph.name


def test_the_same_model_is_traced_once(traced: list[object]) -> None:
    assert [name_of(tiny_model()) for _ in range(3)] == ["number 1"] * 3
    assert len(traced) == 1


def test_another_setting_weight_graph_or_shared_tensor_is_traced_anew(traced: list[object]) -> None:
    name_of(tiny_model())
    touched, tied = tiny_model(), tiny_model(shared_embeddings=True)
    with torch.no_grad():
        touched.get_parameter("encoder.0.attention.query.weight")[0, 0] += 1e-7
    apart: Any = tiny_model(shared_embeddings=True)
    for model in (tiny_model(activation="gelu"), tiny_model(seed=1), touched, tied):
        name_of(model)
    assert len(traced) == 5
    trace.trace_decoder(tied)
    assert len(traced) == 6
    apart.target_embedding.tokens = copy.deepcopy(apart.target_embedding.tokens)
    trace.trace_decoder(apart)
    assert len(traced) == 7


def test_a_planted_fault_is_traced(traced: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    name_of(tiny_model())
    inner = encoder.EncoderGraph.forward

    def faulty(self: Any, *inputs: Any) -> Any:
        return inner(self, *inputs)

    monkeypatch.setattr(encoder.EncoderGraph, "forward", faulty)
    assert name_of(tiny_model()) == "number 2"


def test_another_process_finds_it(traced: list[object], tmp_path: Path) -> None:
    name_of(tiny_model())
    (key,) = (path.name for path in tmp_path.glob("*.made"))
    script = (
        "import pathlib, sys, torch, traced_once\n"
        "from seqserve_export.graphs import trace\n"
        "from tiny_model import tiny_model\n"
        "traced_once.EXPORT = None  # what is there is not traced\n"
        "traced_once.trace_once(pathlib.Path(sys.argv[1]))\n"
        "print(trace.trace_encoder(tiny_model()).graph.name)\n"
    )
    process = start(str(tmp_path), python=script)
    out, error = process.communicate(timeout=120)
    assert out == "number 1\n", error
    assert [path.name for path in tmp_path.glob("*.made")] == [key]


def test_what_cannot_be_compared_is_traced_each_time(traced: list[object]) -> None:
    model: Any = tiny_model()
    model.encoder[0].unheard_of = object()
    assert [name_of(model) for _ in range(2)] == ["number 1", "number 2"]
