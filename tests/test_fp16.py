"""fp16: what is float16 and what is not, how near it stays, what does not fit, and that the CPU serves none of it."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cli_process import start
from seqserve.bundle import BundleError, read_model
from seqserve_export import precision
from seqserve_export.errors import ExportError, ParityError
from seqserve_export.families.native import save_native
from seqserve_export.graphs import halve
from seqserve_export.graphs.emulate import emulate
from seqserve_export.pipeline import Exported, ExportOptions, export_bundle
from seqserve_server import verify_command
from seqserve_server.local import LocalModel
from tiny_model import tiny_model, write_marian, write_native
from variants import VARIANTS

T5 = next(changes for name, changes in VARIANTS.items() if name.startswith("T5"))
GRAPHS = ("encoder.onnx", "decoder.onnx")


@contextmanager
def open_bundle(directory: Path, /, *, verify: bool, scorer: bool) -> Iterator[LocalModel]:
    with LocalModel.open(directory, threads=1, verify=verify, scorer=scorer) as opened:
        yield opened


def export(source: Path, out: Path, **options: Any) -> Exported:
    return export_bundle(ExportOptions(source=source, out=out, precision="fp16", **options), open_bundle)


@pytest.fixture(scope="module", params=list(VARIANTS), ids=list(VARIANTS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Path, str]:
    directory = tmp_path_factory.mktemp("fp16")
    write_native(directory / "tiny", **VARIANTS[request.param])
    return export(directory / "tiny", directory / "out"), directory / "out", request.param


def test_states_and_weights_are_float16_and_choices_float32(exported: tuple[Exported, Path, str]) -> None:
    made, out, variant = exported
    assert {state.dtype for state in read_model(out).states} == {state.dtype for state in made.description.states}
    assert {state.dtype for state in made.description.states} == {"float16"}
    for name in GRAPHS:
        session = onnxruntime.InferenceSession(out / name, providers=["CPUExecutionProvider"])
        for value in (*session.get_inputs(), *session.get_outputs()):
            half = value.name.split(".")[0] in ("self", "cross", "states", "no_keys")
            kind = "tensor(float16)" if half else "tensor(float)"
            assert value.type == kind or "int" in value.type, value.name
        model = onnx.load(out / name, load_external_data=False)
        wide = {entry.name for entry in model.graph.initializer if entry.data_type == TensorProto.FLOAT}
        assert wide == ({"model.output_bias"} if "learned" in variant and name == "decoder.onnx" else set())


def test_one_cast_widens_the_logits_and_one_product_shrinks_a_growing_sum(exported: tuple[Exported, Path, str]) -> None:
    _, out, variant = exported
    encoder, decoder = (
        Counter(node.op_type for node in onnx.load(out / name, load_external_data=False).graph.node) for name in GRAPHS
    )
    assert (encoder["Cast"], decoder["Cast"]) == (0, 1)
    of_the_model = {"post-norm, head size 4": (0, 0), "pre-norm, head size 20, learned positions": (1, 1)}
    gates = of_the_model.get(variant, (2, 2))
    growing = int("post-norm" not in variant)
    assert (encoder["Mul"], decoder["Mul"]) == (gates[0] + growing, gates[1] + growing)


def test_the_report_is_near_the_float32_graphs(exported: tuple[Exported, Path, str]) -> None:
    made, out, _ = exported
    report = json.loads((out / "parity.json").read_text())["fp16"]
    assert made.rounded is not None
    assert report["mixed_equal"] == report["sources"] == 200
    assert report["tokens_equal"] > 0.9
    assert 0 < report["own_mean"] <= 2 * report["logit_mean"] < 0.01 * report["logit_deviation"]
    assert report["bytes_after"] < 0.7 * report["bytes_before"], "graphs and padding are the same size as before"
    assert "no GPU was asked" in made.rounded.table()
    assert sorted(path.name for path in out.iterdir()) == [
        "decoder.onnx", "encoder.onnx", "golden.json", "manifest.json", "model.json", "parity.json", "weights.data"
    ]


def test_the_written_graphs_run_on_the_cpu_and_a_row_has_the_same_bits_in_any_company(
    exported: tuple[Exported, Path, str]
) -> None:
    random = np.random.default_rng(8)
    with LocalModel.open(exported[1], threads=2, verify=False) as model:
        size, end = model.description.source_vocab_size, model.description.eos_id
        sources = [[*random.integers(4, size, random.integers(1, 30)).tolist(), end] for _ in range(17)]
        alone = [model.generate([one], max_new_tokens=12, min_new_tokens=3)[0] for one in sources]
        together = model.generate(
            sources, max_new_tokens=12, min_new_tokens=3, arrivals=random.integers(0, 6, 17).tolist()
        )
    for one, other in zip(alone, together, strict=True):
        assert (one.token_ids, one.log_probs) == (other.token_ids, other.log_probs)


def half_graph(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx_ir.Model:
    """x float16 [n, 4] -> y float16 [n, 4]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 4]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], list(weights))
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    return onnx_ir.from_proto(model)


def run(model: onnx_ir.Model, values: NDArray[np.generic]) -> NDArray[np.generic]:
    session = onnxruntime.InferenceSession(
        onnx_ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": values})[0])


def test_an_emulated_graph_rounds_where_float16_rounds_and_overflows_where_it_overflows() -> None:
    weight = numpy_helper.from_array(np.array(3, np.float16), "w")
    model = half_graph([helper.make_node("Mul", ["x", "w"], ["y"])], weight)
    emulate(model)
    random = np.random.default_rng(2)
    values = (random.standard_normal((20000, 4)) * 10.0 ** random.uniform(-2, 4, (20000, 1))).astype(np.float16)
    values[0] = [21840, 21845, -21850, 22000]  # 65520, 65535, ... : the first beyond the largest rounds up, too
    exact = values.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = (exact * 3).astype(np.float16).astype(np.float32)
    actual = run(model, exact)
    finite = np.isfinite(expected)
    assert not finite.all()
    np.testing.assert_array_equal(actual[finite], expected[finite])
    assert not np.isfinite(actual[~finite]).any()


def test_the_runtime_alone_leaves_roundings_out() -> None:
    """Why there is an emulation. Should this fail, the runtime has learnt to round, and the emulation can go."""
    up, down = (numpy_helper.from_array((np.eye(4) * factor).astype(np.float16), name) for factor, name in (
        (100, "up"), (0.01, "down")
    ))
    model = half_graph(
        [helper.make_node("Gemm", ["x", "up"], ["big"]), helper.make_node("Gemm", ["big", "down"], ["y"])], up, down
    )
    values = np.full((2, 4), 1000, dtype=np.float16)
    assert np.isfinite(run(model, values)).all(), "100,000 is no float16 number"
    emulate(model)
    assert not np.isfinite(run(model, values.astype(np.float32))).any()


def write_growing(directory: Path, factor: float) -> None:
    """A T5 whose feed-forward layers give numbers some ``factor`` times as large as usual."""
    directory.mkdir()
    model = tiny_model(**T5)
    for layer in (*model.encoder, *model.decoder):
        layer.ffn.outer.weight *= factor
    save_native(model, directory, None)


def test_sums_beyond_float16_are_computed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_growing(tmp_path / "t5", 2e5)
    made = export(tmp_path / "t5", tmp_path / "out")
    assert made.rounded is not None
    assert made.rounded.tokens_equal > 0.9
    monkeypatch.setattr(halve, "SHRINK", 1.0)
    with pytest.raises(ParityError, match=r"--precision fp16: .* not finite: a value went beyond 65504"):
        export(tmp_path / "t5", tmp_path / "other")


def test_sums_beyond_all_bounds_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    model = tiny_model(**T5)
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.") and name.endswith(("ffn.inner.weight", "ffn.gate.weight")):
            parameter.mul_(3e4)
    save_native(model, tmp_path / "source", None)
    with pytest.raises(ParityError, match="not finite"):
        export(tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_weight_that_float16_cannot_hold_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    model = tiny_model()
    dict(model.named_parameters())["encoder.1.ffn.outer.weight"][3, 5] = 7e4
    save_native(model, tmp_path / "source", None)
    with pytest.raises(ExportError, match=r"fp16: model\.encoder\.1\.ffn\.outer\.weight: holds 70000, and"):
        export(tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_graphs_that_are_not_the_measured_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_native(tmp_path / "source")

    def spoil(model: onnx_ir.Model) -> None:
        halve.halve(model)
        for value in model.graph.initializers.values():
            if value.name == "qkv.1.weight" and value.const_value is not None:
                spoilt = emulated_later[value.name] = value.const_value
                value.const_value = onnx_ir.tensor(spoilt.numpy() * np.float16(2), name=value.name)

    emulated_later: dict[str, onnx_ir.TensorProtocol] = {}

    def emulate_right(model: onnx_ir.Model) -> None:
        for name, tensor in emulated_later.items():
            if name in model.graph.initializers:
                model.graph.initializers[name].const_value = tensor
        emulate(model)

    monkeypatch.setattr(precision, "halve", spoil)
    monkeypatch.setattr(precision, "emulate", emulate_right)
    with pytest.raises(ParityError, match=r"graphs as written .*MISSED"):
        export(tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_suppressed_tokens_stay_suppressed(tmp_path: Path) -> None:
    write_marian(tmp_path / "opus")
    made = export(tmp_path / "opus", tmp_path / "out")
    assert made.rounded is not None
    assert made.rounded.tokens_equal > 0.9
    with LocalModel.open(tmp_path / "out", threads=1, verify=False) as model:
        logits = model.step_logits([5, 6, 0], [7, 8])
        assert all(49 not in result.token_ids for result in model.generate([[5, 6, 0], [0]]))
    assert np.isfinite(logits).all()
    assert (logits[:, 49] < -1e11).all()


def test_the_cpu_serves_no_fp16_bundle_and_verifies_it(
    exported: tuple[Exported, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported[1]
    with pytest.raises(BundleError, match=r"--precision fp32`$"):
        LocalModel.open(out)
    process = start("serve", str(out), "--port", "0", "--metrics-port", "0")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert told.splitlines()[-1] == (
        f"seqserve serve: {out}: an fp16 bundle runs on CUDA, and the installed onnxruntime is the one for the CPU: "
        "uninstall it, then pip install 'seqserve[server-gpu]'; for the CPU make one with "
        "`seqserve export SOURCE OUT --precision fp32`"
    )
    assert verify_command.run(argparse.Namespace(bundle=out)) == 0
    checks = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in checks] == ["checksums", "graphs", "golden", "smoke"]
    assert checks[3].endswith("; on the CPU only, and an fp16 bundle is made for CUDA")
