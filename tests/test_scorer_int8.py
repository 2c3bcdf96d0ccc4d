"""The scorer in 8 bits: what its own steps say, the same bits in any company, and none of other weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from seqserve_export.errors import ParityError
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server.local import LocalModel
from tiny_model import write_native


@contextmanager
def open_bundle(directory: Path, /, *, verify: bool, scorer: bool) -> Iterator[LocalModel]:
    with LocalModel.open(directory, threads=1, verify=verify, scorer=scorer) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scorer") / "tiny"
    write_native(directory, tied_output=True)
    return directory


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    out = source.parent / "int8"
    export_bundle(ExportOptions(source=source, out=out, precision="int8"), open_bundle)
    return out


def test_the_report_says_how_far_scores_are_from_the_steps(exported: Path) -> None:
    report = json.loads((exported / "parity.json").read_text())["int8"]
    assert 0 < report["score_mean"] < report["logit_mean"]
    assert report["score_mean"] < report["score_largest"]


def test_every_product_with_a_weight_is_in_eight_bits(exported: Path) -> None:
    def weights(name: str) -> set[str]:
        nodes = onnx.load(exported / name, load_external_data=False).graph.node
        assert not any(node.op_type == "Gemm" for node in nodes)
        return {node.input[2] for node in nodes if node.op_type.startswith("Product")}

    assert len(weights("scorer.onnx")) == len(weights("decoder.onnx")) > 6


def test_a_pair_scores_the_same_bits_in_any_company(exported: Path) -> None:
    random = np.random.default_rng(9)
    with LocalModel.open(exported, threads=2) as model:
        size, end = model.description.source_vocab_size, model.description.eos_id
        sources, targets = (
            [[*random.integers(4, size, random.integers(1, 30)).tolist(), end] for _ in range(33)] for _ in range(2)
        )
        alone = [model.score([one], [other])[0] for one, other in zip(sources, targets, strict=True)]
        for count in (2, 3, 16, 33):
            order = random.permutation(33)[:count].tolist()
            together = model.score([sources[place] for place in order], [targets[place] for place in order])
            for place, scored in zip(order, together, strict=True):
                assert scored.log_probs.tobytes() == alone[place].log_probs.tobytes()
                assert scored.alignment.tobytes() == alone[place].alignment.tobytes()


def test_a_scorer_of_other_weights_leaves_no_bundle(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_targets = LocalModel.score_targets
    monkeypatch.setattr(
        LocalModel, "score_targets", lambda self, *asked: [
            found - np.float32(self.description.precision == "int8")
            for found in score_targets(self, *asked)
        ],
    )
    with pytest.raises(ParityError, match=r"scores against its own steps .* MISSED"):
        export_bundle(ExportOptions(source=source, out=tmp_path / "out", precision="int8"), open_bundle)
    assert not (tmp_path / "out").exists()
