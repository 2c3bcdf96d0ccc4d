"""From checkpoint to bundle: what is written, and that a failure at any stage leaves nothing behind."""

import argparse
import errno
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference_bundle import ReferenceBundle, opener
from seqserve.bundle import BundleError, ModelDescription, StateTensor
from seqserve.manifest import check_manifest
from seqserve_export import command, pipeline, proof_sources
from seqserve_export.errors import ExportError, ParityError
from seqserve_export.model import Transformer
from seqserve_export.parity_report import ParityReport
from seqserve_export.pipeline import Exported, ExportOptions, export_bundle
from tiny_model import write_native

REPORT = ParityReport(
    sources=200, source_tokens=2000, longest_source=64, generated_tokens=600, longest_target=64,
    compared_positions=728, tolerance=1e-4, encoder_error=0.0, logits_error=0.0, largest_logit=1.0, log_prob_error=0.0,
    score_error=0.0, equal=200,
)


class Stage:
    """A checkpoint, a place for its bundle, and an export whose graphs are stand-ins and whose engine is the model."""

    def __init__(self, directory: Path) -> None:
        self.source, self.out = directory / "tiny", directory / "bundles" / "tiny"
        self.model = write_native(self.source, encoder_layers=1, decoder_layers=1)
        self.out.parent.mkdir()
        self.bundle = ReferenceBundle(self.model)

    def export(self, **changes: Any) -> Exported:
        return export_bundle(self.options(**changes), opener(self.bundle))

    def options(self, **changes: Any) -> ExportOptions:
        return ExportOptions(**{"source": self.source, "out": self.out, **changes})

    def left(self) -> list[str]:
        """Names beside the bundle, hidden ones too."""
        return sorted(path.name for path in self.out.parent.iterdir())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    def write_graphs(
        model: Transformer, directory: Path, alignment: object, progress: Callable[[str], None], *, kernels: bool
    ) -> None:
        for name in ("encoder.onnx", "decoder.onnx"):
            (directory / name).write_bytes(b"stand-in")

    monkeypatch.setattr(pipeline, "write_graphs", write_graphs)
    monkeypatch.setattr(pipeline, "PROOF_NEW_TOKENS", 3)
    monkeypatch.setattr(proof_sources, "COUNT", 24)
    return Stage(tmp_path)


def test_a_bundle_holds_what_its_manifest_says(stage: Stage) -> None:
    exported = stage.export()
    check_manifest(stage.out)
    assert {path.name for path in stage.out.iterdir()} == {
        "encoder.onnx", "decoder.onnx", "golden.json", "model.json", "parity.json", "manifest.json",
    }
    assert stage.left() == ["tiny"]
    description = ModelDescription.from_json((stage.out / "model.json").read_text())
    assert description == exported.description
    assert (description.name, description.family, description.precision) == ("tiny", "native", "fp32")
    assert description.states == (
        StateTensor("self", 2, (4, "length", 8), "float32", "row", "target", "append"),
        StateTensor("cross", 2, (4, "length", 8), "float32", "request", "source", "constant"),
    )
    assert json.loads((stage.out / "parity.json").read_text())["equal"] == 24
    assert stage.bundle.closed


def test_heads_are_described_as_padded(stage: Stage) -> None:
    stage.bundle.model = write_native(stage.source, heads=2, head_size=20)
    assert stage.export().description.states[0].shape == (2, "length", 24)


def test_the_same_checkpoint_gives_the_same_bundle(stage: Stage) -> None:
    stage.export()
    first = check_manifest(stage.out)
    stage.export(force=True)
    assert check_manifest(stage.out) == first


def test_a_tokenizer_travels_with_its_model(stage: Stage) -> None:
    text = json.dumps({"model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 3}}})
    (stage.source / "tokenizer.json").write_text(text)
    stage.export()
    assert (stage.out / "tokenizer" / "tokenizer.json").read_text() == text
    check_manifest(stage.out)


def test_a_name_may_be_given(stage: Stage) -> None:
    assert stage.export(name="en-de").description.name == "en-de"
    with pytest.raises(ExportError, match="--name 'a b'"):
        stage.export(name="a b", force=True)


def test_missing_parents_are_made_and_removed_again_on_failure(stage: Stage) -> None:
    out = stage.out / "deep" / "er"
    stage.bundle = Broken(stage.model)
    with pytest.raises(ParityError):
        stage.export(out=out)
    assert stage.left() == []
    stage.bundle = ReferenceBundle(stage.model)
    stage.export(out=out)
    check_manifest(out)


def test_other_precisions_are_refused_with_those_supported(stage: Stage) -> None:
    with pytest.raises(ExportError, match="--precision fp8: unknown; supported: fp32, int8, fp16"):
        stage.export(precision="fp8")


# --- an OUT that exists


def test_an_existing_bundle_is_kept_without_force_and_replaced_with_it(stage: Stage) -> None:
    stage.export()
    version = check_manifest(stage.out)
    with pytest.raises(ExportError, match="exists already; --force replaces it"):
        stage.export(name="other")
    assert check_manifest(stage.out) == version
    stage.export(name="other", force=True)
    assert check_manifest(stage.out) != version
    assert stage.left() == ["tiny"]


def test_an_empty_directory_is_replaced_with_force(stage: Stage) -> None:
    stage.out.mkdir()
    stage.export(force=True)
    check_manifest(stage.out)


def test_force_never_removes_what_is_no_bundle(stage: Stage) -> None:
    stage.out.mkdir()
    (stage.out / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="is not a bundle"):
        stage.export(force=True)
    with pytest.raises(ExportError, match="is not a bundle"):
        stage.export(out=stage.source, force=True)
    assert (stage.out / "thesis.tex").exists()


def test_force_never_removes_the_source(stage: Stage) -> None:
    stage.export()
    inside = stage.out / "checkpoint"
    write_native(inside)
    with pytest.raises(ExportError, match="holds the source"):
        stage.export(source=inside, force=True)


# --- failures


class Broken(ReferenceBundle):
    def encoder_states(self, source_ids: Sequence[int], /) -> NDArray[np.float32]:
        return super().encoder_states(source_ids) + 1


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("force", [False, True])
def test_a_bundle_that_misses_its_model_is_thrown_away(stage: Stage, force: bool) -> None:
    if force:
        stage.export()
        version = check_manifest(stage.out)
    stage.bundle = Broken(stage.model)
    with pytest.raises(ParityError, match="MISS"):
        stage.export(force=force)
    assert stage.left() == (["tiny"] if force else [])
    assert stage.bundle.closed
    if force:
        assert check_manifest(stage.out) == version, "the older bundle stays"


@pytest.mark.parametrize("place", ["write_graphs", "_write_descriptions", "_prove", "write_manifest", "_publish"])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ExportError, "cannot be written: No space left on device"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (MemoryError(), MemoryError, None),
    ],
    ids=["disk full", "Ctrl-C", "out of memory"],
)
def test_a_failure_at_any_stage_leaves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException, raised: type[BaseException],
    message: str | None,
) -> None:
    monkeypatch.setattr(pipeline, "_prove", lambda *_: REPORT)
    monkeypatch.setattr(pipeline, place, raising(error))
    with pytest.raises(raised, match=message):
        stage.export()
    assert stage.left() == []


def test_a_failed_rename_puts_the_older_bundle_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.export()
    version, rename = check_manifest(stage.out), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ExportError, match="Input/output error"):
        stage.export(force=True)
    assert check_manifest(stage.out) == version
    assert stage.left() == ["tiny"]


def test_a_bundle_that_does_not_open_is_reported(stage: Stage) -> None:
    with pytest.raises(ExportError, match=r"does not open: decoder\.onnx"):
        export_bundle(stage.options(), raising(BundleError("decoder.onnx: odd")))
    assert stage.left() == []


def test_a_corrupt_checkpoint_writes_nothing(stage: Stage) -> None:
    (stage.source / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ExportError, match="not a readable weights file"):
        stage.export()
    assert stage.left() == []


# --- the command


def run_command(stage: Stage, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(stage.source), str(stage.out), *arguments]), opener(stage.bundle))


def test_the_command_prints_the_table_and_shows_no_progress_off_a_terminal(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(stage, "--name", "en-de") == 0
    out, err = capsys.readouterr()
    assert out.startswith("parity with the source model: 24 sources")
    note, last = err.splitlines()
    assert note == "note: without tokenizer.json: the bundle takes and returns token ids"
    assert last.startswith(f"wrote {stage.out} (en-de) in ")
    assert "proving" not in err


def test_the_command_fails_with_one_line(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(stage, "--name", "a b") == 1
    told = "seqserve export: --name 'a b': letters, digits, '.', '_' and '-' only\n"
    assert capsys.readouterr() == ("", told)


def test_a_miss_prints_the_table_and_fails(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.bundle = Broken(stage.model)
    assert run_command(stage) == 1
    assert "no bundle was written\nparity with the source model" in capsys.readouterr().err
    assert stage.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_cleans_up_and_restores_the_handler(stage: Stage, number: signal.Signals) -> None:
    class Terminated(ReferenceBundle):
        def encoder_states(self, source_ids: Sequence[int], /) -> NDArray[np.float32]:
            signal.raise_signal(number)
            return super().encoder_states(source_ids)

    inherited = signal.signal(number, signal.SIG_DFL)  # ``nohup`` hands down an ignored one, which is then left alone
    stage.bundle = Terminated(stage.model)
    try:
        with pytest.raises(SystemExit) as caught:
            run_command(stage)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
    assert caught.value.code == 128 + number
    assert stage.left() == []
