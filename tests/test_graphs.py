"""The traced graphs, run by the server's engine, against the PyTorch model, for every choice of architecture."""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from seqserve.bundle import ModelDescription
from seqserve.manifest import check_manifest
from seqserve_export import parity, pipeline, proof_sources
from seqserve_export.families import choose_family
from seqserve_export.graphs import trace
from seqserve_export.graphs.blocks import pad_head_rows, padded_head_size
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server.local import LocalModel
from tiny_model import tiny_model, write_marian, write_native

# Together these take every branch of the graphs. Tracing costs seconds whatever the size, so there are few.
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm, head size 4": {"heads": 8, "head_size": 4, "shared_embeddings": True, "tied_output": True},
    "pre-norm, head size 20, learned positions": {
        "heads": 2, "head_size": 20, "norm_position": "pre", "final_norm": True, "positions": "learned",
        "position_offset": 2, "embedding_norm": True, "activation": "gelu", "target_vocab_size": 61,
        "output_bias": True, "encoder_layers": 1, "embedding_scale": 5.0,
    },
    "T5: RMS norm, relative positions, gated, no biases": {
        "norm": "rms", "norm_position": "pre", "final_norm": True, "norm_epsilon": 1e-6, "positions": "relative",
        "relative_buckets": 8, "relative_max_distance": 20, "gated_ffn": True, "activation": "gelu_tanh",
        "attention_bias": False, "ffn_bias": False, "attention_scale": 1.0, "shared_embeddings": True,
    },
}


class Built:
    """A bundle without proof: what the tests here look at."""

    def __init__(self, directory: Path, changes: dict[str, Any]) -> None:
        source = directory / "source"
        write_native(source, **changes)
        self.checkpoint = choose_family(source).read(source)
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        pipeline.write_graphs(self.checkpoint.model, self.bundle)
        self.description = pipeline.describe(self.checkpoint, "tiny", "fp32")
        (self.bundle / "model.json").write_text(self.description.to_json())


@pytest.fixture(scope="module", params=list(VARIANTS.values()), ids=list(VARIANTS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("graphs"), request.param)


def test_the_graphs_compute_what_the_model_computes(built: Built) -> None:
    sources = proof_sources.random_sources(built.description, 40)
    with LocalModel.open(built.bundle, verify=False) as local:
        report = parity.prove(
            built.checkpoint.model, local, sources, max_new_tokens=12, arrivals=proof_sources.arrivals(len(sources))
        )
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
        assert inputs[f"cross.{index}"] == ["rows", heads, "source_capacity", size]
    controls = {"tokens", "positions", "source_lengths", "target_extent", "source_extent", "candidates"}
    assert set(inputs) == controls | {f"{state}.{i}" for state in ("self", "cross") for i in range(own.count)}
    assert outputs["logits"] == ["rows", description.target_vocab_size]
    encoder = onnxruntime.InferenceSession(built.bundle / "encoder.onnx", providers=["CPUExecutionProvider"])
    inputs, outputs = value_shapes(encoder.get_inputs()), value_shapes(encoder.get_outputs())
    assert set(inputs) == {"tokens", "positions", "lengths", "pad_index", "pack_index"}
    assert outputs["cross"] == [cross.count, heads, "tokens", size]
    assert outputs["states"] == ["tokens", built.checkpoint.model.config.width]


def test_opset_and_ir_version_are_the_fixed_ones(built: Built) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        model = onnx.load(built.bundle / name, load_external_data=False)
        assert model.ir_version == trace.IR_VERSION
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": trace.OPSET, "com.microsoft": 1}


def test_the_step_is_fused_operators_without_masks_or_casts(built: Built) -> None:
    model, config = onnx.load(built.bundle / "decoder.onnx"), built.checkpoint.model.config
    operators = Counter(node.op_type for node in model.graph.node)
    layers = config.decoder_layers
    assert operators["GroupQueryAttention"] == 2 * layers
    norms = operators["LayerNormalization"] + operators["SimplifiedLayerNormalization"]
    assert 3 * layers <= norms <= 3 * layers + 2  # of the embeddings and of the stack's end, where there are such
    for operator in ("Where", "Expand", "Concat", "ScatterND", "Softmax", "Sqrt", "ReduceMean", "Cast"):
        assert operators[operator] == 0, operator


def test_nothing_about_the_exporting_machine_is_written(built: Built) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        content = (built.bundle / name).read_bytes()
        for trace_of_it in (b".py", b"stack_trace", str(built.bundle.parent).encode()):
            assert trace_of_it not in content


def test_a_tied_projection_is_stored_once(tmp_path: Path) -> None:
    model = tiny_model(tied_output=True, decoder_layers=1, target_vocab_size=4000)
    path = tmp_path / "decoder.onnx"
    assert trace.save_graph(trace.trace_decoder(model), path) == [path]
    table = 4000 * 32 * 4
    assert table < path.stat().st_size < 2 * table


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "INLINE_LIMIT_BYTES", 1000)
    path = tmp_path / "encoder.onnx"
    files = trace.save_graph(trace.trace_encoder(tiny_model(encoder_layers=1, decoder_layers=1)), path)
    assert files == [path, tmp_path / "encoder.onnx.data"]
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


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
