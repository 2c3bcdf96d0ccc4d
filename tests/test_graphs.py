"""The traced graphs, run by the server's engine, against the PyTorch model, for every choice of architecture."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from built_bundle import Built
from seqserve.bundle import ModelDescription
from seqserve.manifest import check_manifest
from seqserve_export import parity, pipeline, proof_sources
from seqserve_export.graphs import trace
from seqserve_export.graphs.blocks import pad_head_rows, padded_head_size
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server.local import LocalModel
from tiny_model import tiny_model, write_marian


def test_the_graphs_compute_what_the_model_computes(built: Built) -> None:
    sources = proof_sources.random_sources(built.description, 40)
    with LocalModel.open(built.bundle, verify=False) as local:
        report = parity.prove(
            built.checkpoint.model, local, sources, max_new_tokens=12, arrivals=proof_sources.arrivals(len(sources))
        ).with_scores(local, sources)
    assert report.passed, report.table()
    assert report.longest_source == report.longest_target == 64


def value_shapes(values: Any) -> dict[str, list[int | str]]:
    return {value.name: value.shape for value in values}


def test_inputs_and_outputs_are_those_of_the_description(built: Built) -> None:
    description: ModelDescription = built.description
    decoder = onnxruntime.InferenceSession(built.bundle / "decoder.onnx", providers=["CPUExecutionProvider"])
    inputs, outputs = value_shapes(decoder.get_inputs()), value_shapes(decoder.get_outputs())
    own, cross = description.states
    heads, _, size = own.shape
    for index in range(own.count):
        assert inputs[f"self.{index}"] == ["rows", heads, "target_capacity", size]
        assert outputs[f"self.{index}.next"] == ["rows", heads, "target_capacity", size]
        for width, suffix in ((1, ""), (4, ".x4"), (8, ".x8")):
            assert inputs[f"cross.{index}{suffix}"] == [f"places_{width}", heads, "source_capacity", size]
    controls = {"tokens", "positions", "target_extent", "source_extent", "candidates", "mixed", "back"}
    controls |= {f"{name}.x{width}" for name in ("used", "rows") for width in (1, 4, 8)}
    states = {f"{name}{suffix}" for name in ("source_lengths", *(f"cross.{index}" for index in range(cross.count)))
              for suffix in ("", ".x4", ".x8")}
    assert set(inputs) == controls | states | {f"self.{index}" for index in range(own.count)}
    for width, suffix in ((1, ""), (4, ".x4"), (8, ".x8")):
        assert inputs[f"rows.x{width}"] == [f"places_{width}", width]
        assert inputs[f"source_lengths{suffix}"] == [f"places_{width}"]
    assert outputs["logits"] == ["rows", description.target_vocab_size]
    encoder = onnxruntime.InferenceSession(built.bundle / "encoder.onnx", providers=["CPUExecutionProvider"])
    inputs, outputs = value_shapes(encoder.get_inputs()), value_shapes(encoder.get_outputs())
    assert set(inputs) == {"tokens", "positions", "lengths", "pad_index", "pack_index"}
    assert outputs["cross"] == [cross.count, heads, "tokens", size]
    assert outputs["states"] == ["tokens", built.checkpoint.transformer.config.width]


def test_opset_and_ir_version_are_the_fixed_ones(built: Built) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        model = onnx.load(built.bundle / name, load_external_data=False)
        assert model.ir_version == trace.IR_VERSION
        imports = {"": trace.OPSET, "com.microsoft": 1, "seqserve": 1}
        assert {entry.domain: entry.version for entry in model.opset_import} == imports
        for function in model.functions:
            assert {entry.domain: entry.version for entry in function.opset_import}.items() <= imports.items()


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    """What is run where every row has a source of its own."""
    (plain,) = (each.g for each in node.attribute if each.name == "else_branch")
    return plain


def test_the_step_is_fused_operators_without_masks_or_casts(built: Built) -> None:
    model, config = onnx.load(built.bundle / "decoder.onnx"), built.checkpoint.transformer.config
    operators = Counter(node.op_type for node in model.graph.node)
    layers = config.decoder_layers
    own = "BiasedSelfAttention" if config.positions == "relative" else "SelfAttention"
    assert operators[own] == operators["If"] == layers  # self-attentions, and cross-attentions
    assert operators["TopCandidates"] == 1
    plain = [Counter(node.op_type for node in branch(node).node) for node in model.graph.node if node.op_type == "If"]
    assert plain == [Counter({"CrossAttention": 1, "Slice": 1})] * layers  # the slice: no new keys
    norms = operators["LayerNormalization"] + operators["SimplifiedLayerNormalization"]
    assert 3 * layers <= norms <= 3 * layers + 2  # of the embeddings and of the stack's end, where there are such
    for operator in ("Where", "Expand", "Concat", "ScatterND", "Softmax", "Sqrt", "ReduceMean", "Cast"):
        assert operators[operator] == 0, operator


def test_the_encoder_attends_to_packed_sources(built: Built) -> None:
    model, config = onnx.load(built.bundle / "encoder.onnx"), built.checkpoint.transformer.config
    operators = Counter(node.op_type for node in model.graph.node)
    own = "BiasedPackedAttention" if config.positions == "relative" else "PackedAttention"
    assert operators[own] == config.encoder_layers
    assert not operators.keys() & {"MultiHeadAttention", "Split", "Softmax"}


def test_nothing_about_the_exporting_machine_is_written(built: Built) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        content = (built.bundle / name).read_bytes()
        for trace_of_it in (b".py", b"stack_trace", str(built.bundle.parent).encode()):
            assert trace_of_it not in content


def test_a_tied_projection_is_stored_once(tmp_path: Path) -> None:
    model = tiny_model(tied_output=True, decoder_layers=1, target_vocab_size=4000)
    WeightsFile(tmp_path / "weights.data").save(trace.trace_decoder(model), tmp_path / "decoder.onnx")
    table = 4000 * 32 * 4
    assert table < (tmp_path / "weights.data").stat().st_size < 2 * table


def test_an_embedding_that_both_sides_and_the_output_share_is_stored_once(tmp_path: Path) -> None:
    model = tiny_model(
        tied_output=True, shared_embeddings=True, encoder_layers=1, decoder_layers=1, source_vocab_size=4000,
        target_vocab_size=4000,
    )
    pipeline.write_graphs(model, tmp_path)
    table = 4000 * 32 * 4
    assert table < (tmp_path / "weights.data").stat().st_size < 2 * table
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(tmp_path / name, load_external_data=False)
        (entry,) = (tensor for tensor in graph.graph.initializer if list(tensor.dims) == [4000, 32])
        assert {item.key: item.value for item in entry.external_data}["location"] == "weights.data"
        assert (tmp_path / name).stat().st_size < table / 4
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])


def test_tensors_are_told_apart_by_values_type_and_shape(tmp_path: Path) -> None:
    zeros = [np.zeros((32, 16), np.float32), np.zeros((16, 32), np.float32), np.zeros((32, 16), np.int32)]
    arrays = [*zeros, np.ones((32, 16), np.float32), zeros[0].copy(), np.ones(4, np.float32)]
    values = [onnx_ir.val(f"w{number}", const_value=onnx_ir.tensor(array)) for number, array in enumerate(arrays)]
    graph = onnx_ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 20})
    WeightsFile(tmp_path / "weights.data").save(onnx_ir.Model(graph, ir_version=10), tmp_path / "graph.onnx")
    assert (tmp_path / "weights.data").stat().st_size == 3 * 4096 + 2048, "the copy is not there, nor what is small"
    read = onnx.load(tmp_path / "graph.onnx").graph.initializer
    for tensor, array in zip(read, arrays, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), array)


@pytest.mark.parametrize(("size", "padded"), [(1, 8), (4, 8), (8, 8), (20, 24), (25, 32), (64, 64)])
def test_heads_are_padded_to_multiples_of_eight(size: int, padded: int) -> None:
    assert padded_head_size(size) == padded
    weight = torch.arange(2.0 * size)[:, None] + 1
    grown = pad_head_rows(weight, 2, padded).reshape(2, padded)
    assert torch.equal(grown[:, :size].reshape(-1, 1), weight)
    assert not grown[:, size:].any()


def test_a_marian_directory_becomes_a_proved_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PROOF_NEW_TOKENS", 8)
    tensors = write_marian(tmp_path / "opus")
    exported = export_bundle(ExportOptions(source=tmp_path / "opus", out=tmp_path / "bundle"), LocalModel.open)
    assert exported.report.passed
    assert exported.report.sources >= 200
    check_manifest(tmp_path / "bundle")
    with LocalModel.open(tmp_path / "bundle") as local:
        results = local.generate([[5, 6, 0], [0]])
    assert all(49 not in result.token_ids for result in results), "pad is never generated"
    assert load_file(tmp_path / "opus" / "model.safetensors").keys() == tensors.keys(), "the source is left alone"
