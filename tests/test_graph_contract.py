"""Graphs that are not what ``model.json`` says, or no graphs at all: one line, before anything is served."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from seqserve.bundle import BundleError, ModelDescription, StateTensor, read_model
from seqserve_server.ort_engine import OrtEngine


def copy(bundle: Path, out: Path) -> Path:
    shutil.copytree(bundle, out)
    return out


def opened(directory: Path, model: ModelDescription) -> str:
    with pytest.raises(BundleError) as caught:
        OrtEngine(directory, model, threads=1, cache_bytes=1 << 26, max_rows=8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_graphs_and_description_that_disagree_are_refused_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    model = read_model(tiny_bundle)

    def changed(place: int, **changes: object) -> ModelDescription:
        states = list(model.states)
        states[place] = StateTensor(**{**dataclasses.asdict(states[place]), **changes})
        return dataclasses.replace(model, states=tuple(states))

    assert opened(tiny_bundle, changed(0, count=3)) == "decoder.onnx: inputs differ from model.json: self.3"
    assert "inputs differ from model.json: self.4" in opened(tiny_bundle, changed(0, count=5))
    assert "decoder.onnx: self.0 has shape" in opened(tiny_bundle, changed(0, shape=(4, "length", 24)))
    deeper = (*model.states[0].shape, 1)
    assert "decoder.onnx: self.0 has shape" in opened(tiny_bundle, changed(0, shape=deeper))
    swapped = copy(tiny_bundle, tmp_path / "swapped")
    (swapped / "encoder.onnx").write_bytes((tiny_bundle / "decoder.onnx").read_bytes())
    assert opened(swapped, model).startswith("encoder.onnx: inputs differ from model.json: ")


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_a_graph_that_the_runtime_cannot_read_is_one_clear_line(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    broken = copy(tiny_bundle, tmp_path / "broken")
    data = (broken / name).read_bytes()
    for content in (b"", b"not a graph", data[: len(data) // 2]):
        (broken / name).write_bytes(content)
        assert opened(broken, read_model(broken)).startswith(f"{name}: the runtime refuses it")
    (broken / name).unlink()
    assert opened(broken, read_model(broken)).startswith(f"{name}: the runtime refuses it")
