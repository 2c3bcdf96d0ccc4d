"""int8: rounding by channel and row, the same bits in any company, and refusals."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tokenizers import Tokenizer, models, pre_tokenizers

from seqserve_export.errors import ExportError, ParityError
from seqserve_export.graphs.quantize import LEVELS, quantize_weight
from seqserve_export.pipeline import Exported, ExportOptions, export_bundle
from seqserve_export.precision import ExactAnswers, compare
from seqserve_export.precision_report import LogitErrors
from seqserve_export.proof_sources import ProofSource
from seqserve_export.text_scores import TextScores
from seqserve_server import kernels
from seqserve_server.decoding.search import Hypothesis
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished, FinishReason, Times
from tiny_model import write_native


@contextmanager
def open_bundle(directory: Path, /, *, verify: bool, scorer: bool) -> Iterator[LocalModel]:
    with LocalModel.open(directory, threads=1, verify=verify, scorer=scorer) as opened:
        yield opened


def write_tokenizer(path: Path, size: int) -> None:
    inner = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.save(str(path))


def export(source: Path, out: Path, **options: Any) -> Exported:
    return export_bundle(ExportOptions(source=source, out=out, precision="int8", **options), open_bundle)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("precision") / "tiny"
    write_native(directory, tied_output=True)
    return directory


@pytest.fixture(scope="module")
def exported(source: Path) -> tuple[Exported, Path]:
    out = source.parent / "int8"
    return export(source, out), out


def test_weights_are_rounded_by_output_channel() -> None:
    weight = np.random.default_rng(3).standard_normal((40, 7)).astype(np.float32)
    weight[:, 2] *= 1000
    weight[:, 4] = 0
    integers, scales = quantize_weight(weight)
    assert integers.dtype == np.int8
    assert (integers.shape, scales.shape) == ((40, 7), (7,))
    assert np.abs(integers.astype(int)).max(axis=0).tolist() == [LEVELS] * 4 + [0] + [LEVELS] * 2
    assert (np.abs(integers * scales - weight) <= scales / 2 + 1e-9).all()


def test_every_product_with_a_weight_is_in_eight_bits(exported: tuple[Exported, Path], source: Path) -> None:
    layers = json.loads((source / "config.json").read_text())["decoder_layers"]
    model = onnx.load(exported[1] / "decoder.onnx")
    count = Counter(node.op_type for node in model.graph.node)
    assert (count["Gemm"], count["MatMul"]) == (0, 0)
    products = sum(number for operator, number in count.items() if operator.startswith("Product"))
    assert products == 6 * layers + 1
    tables = [
        entry.name for entry in model.graph.initializer if entry.data_type == TensorProto.FLOAT and len(entry.dims) == 2
    ]
    assert len(tables) == 2, tables  # tokens, which the tied output shares, and positions


def test_the_bundle_says_what_it_is_and_how_far_it_is_off(exported: tuple[Exported, Path]) -> None:
    made, out = exported
    report = json.loads((out / "parity.json").read_text())["int8"]
    assert json.loads((out / "model.json").read_text())["precision"] == made.description.precision == "int8"
    assert sorted(path.name for path in out.iterdir()) == [
        "decoder.onnx", "encoder.onnx", "golden.json", "manifest.json", "model.json", "parity.json", "scorer.onnx",
        "weights.data",
    ]
    assert made.rounded is not None
    assert report["mixed_equal"] == report["sources"] == 200
    assert 0 < report["logit_mean"] < 0.2 * report["logit_deviation"]
    assert report["bytes_after"] < report["bytes_before"]


def test_a_row_has_the_same_bits_in_any_company(exported: tuple[Exported, Path]) -> None:
    random = np.random.default_rng(8)
    with LocalModel.open(exported[1], threads=2) as model:
        size, end = model.description.source_vocab_size, model.description.eos_id
        sources = [[*random.integers(4, size, random.integers(1, 30)).tolist(), end] for _ in range(33)]
        alone = [model.generate([one], max_new_tokens=12, min_new_tokens=3)[0] for one in sources]
        for count in (2, 3, 5, 16, 33):
            order = random.permutation(33)[:count].tolist()
            together = model.generate(
                [sources[place] for place in order], max_new_tokens=12, min_new_tokens=3,
                arrivals=random.integers(0, 6, count).tolist(),
            )
            for place, answer in zip(order, together, strict=True):
                assert (answer.token_ids, answer.log_probs) == (alone[place].token_ids, alone[place].log_probs)


def test_a_scale_over_the_whole_batch_would_be_seen(
    exported: tuple[Exported, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "compiled_library", lambda: None)  # so that the graph's own definition counts
    broken = tmp_path / "broken"
    shutil.copytree(exported[1], broken)
    for name in ("encoder.onnx", "decoder.onnx", "scorer.onnx"):
        graph = onnx.load(broken / name, load_external_data=False)
        (rounding,) = (function for function in graph.functions if function.name == "RowQuantize")
        (axes,) = (node for node in rounding.node if list(node.output) == ["last"])
        axes.attribute[0].ints[:] = [0, 1]
        onnx.save(graph, broken / name)
    with LocalModel.open(broken, threads=1, verify=False) as model:
        sources = [[5, 6, 7, model.description.eos_id], [40, 41, model.description.eos_id]]
        alone = [model.generate([one], max_new_tokens=6, min_new_tokens=6)[0] for one in sources]
        together = model.generate(sources, max_new_tokens=6, min_new_tokens=6)
        one, other = model.score(sources[:1], [[5, 6]])[0], model.score(sources, [[5, 6], [40]])[0]
    assert [each.log_probs for each in alone] != [each.log_probs for each in together]
    assert one.log_probs.tobytes() != other.log_probs.tobytes()


def test_too_little_agreement_leaves_no_bundle(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqserve_export.precision._equal_tokens", lambda one, other: 0)
    with pytest.raises(ParityError, match=r"tokens equal +0\.0%, at least 50\.0% asked for   MISSED"):
        export(source, tmp_path / "out", min_agreement=0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "told"), [
    ({"min_agreement": 1.5}, r"--min-agreement 1\.5: not in 0\.\.1"),
    ({"min_agreement": 0.5, "precision": "fp32"}, "--min-agreement: means nothing for fp32"),
])
def test_options_that_make_no_sense_are_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ExportError, match=told):
        export_bundle(
            ExportOptions(**{"source": source, "out": tmp_path / "out", "precision": "int8", **options}), open_bundle
        )


def test_errors_of_logits_seen_piece_by_piece_are_those_of_all_together() -> None:
    random = np.random.default_rng(6)
    parts = [random.standard_normal((steps, 50)).astype(np.float32) * 4 + 7 for steps in (1, 5, 12)]
    others = [part + random.standard_normal(part.shape).astype(np.float32) * 0.1 for part in parts]
    errors = LogitErrors()
    for part, other in zip(parts, others, strict=True):
        errors.add(part, other)
    whole, apart = np.concatenate(parts), np.abs(np.concatenate(others) - np.concatenate(parts))
    assert errors.largest == apart.max()
    assert errors.mean == pytest.approx(apart.mean())
    assert errors.deviation == pytest.approx(whole.std())
    constant = LogitErrors()
    constant.add(np.full((2, 3), 0.1, np.float32), np.full((2, 3), 0.1, np.float32))
    assert (constant.largest, constant.mean) == (0, 0)
    assert constant.deviation == pytest.approx(0, abs=1e-6)


class Silent:
    """A bundle whose answers end at once, as a decoder; its scorer is never asked."""

    can_score = True

    def generate(self, sources: Sequence[Sequence[int]], prompts: object, /, **_: Any) -> list[Finished]:
        return [Finished(0, FinishReason.EOS, [Hypothesis([], [-0.5], -0.5, ended=True)], Times(0.0))] * len(sources)

    def step_logits(
        self, source_ids: object, target_ids: Sequence[int], prompt: object, last: int, /
    ) -> np.ndarray[Any, Any]:
        assert len(target_ids) == last == 1
        return np.zeros((1, 4), np.float32)


def test_answers_without_a_token_agree_in_all_of_them() -> None:
    silent: Any = Silent()
    sources = [ProofSource((1,), (3,))] * 2
    exact = ExactAnswers.of(silent, sources, max_new_tokens=4, last=1, progress=lambda _: None)
    report = compare(
        exact, silent, sources, precision="int8", max_new_tokens=4, arrivals=[0, 0],
        min_agreement=1.0, progress=lambda _: None,
    )
    assert (report.tokens_equal, report.sources_equal, report.mixed_equal) == (1.0, 2, 2)
    assert report.passed


def test_texts_of_sentences_are_compared_and_random_ids_have_none(tmp_path: Path) -> None:
    source = tmp_path / "words"
    write_native(source, tied_output=True)
    write_tokenizer(source / "tokenizer.json", 50)
    (tmp_path / "lines.txt").write_text("w5 w6 w7\nw8 w9\nw10 w11 w12 w13\n")
    made = export(source, tmp_path / "int8", sentences=tmp_path / "lines.txt")
    assert made.rounded is not None
    assert made.rounded.texts is not None
    assert made.rounded.texts.sentences == 3
    assert 0 < made.rounded.texts.chrf <= 100
    assert "texts of 3 sentences" in made.rounded.table()
    assert json.loads((tmp_path / "int8" / "parity.json").read_text())["int8"]["texts"]["sentences"] == 3


def test_the_same_texts_are_a_hundred_and_others_are_less() -> None:
    same = TextScores.of(["a man rides a horse", "two dogs"], ["a man rides a horse", "two dogs"])
    other = TextScores.of(["a man rides a horse", "two dogs"], ["a man rides a cow", "two dogs"])
    assert (same.sentences, round(same.bleu, 6), round(same.chrf, 6)) == (2, 100, 100)
    assert 0 < other.bleu < 100
    assert 0 < other.chrf < 100


def test_suppressed_logits_are_not_part_of_the_errors() -> None:
    errors = LogitErrors()
    errors.add(np.array([[1.0, -1e12, 3.0]], np.float32), np.array([[1.5, -1e12 + 1e6, 3.0]], np.float32))
    assert (errors.largest, errors.mean, errors.deviation) == (0.5, 0.25, 1.0)
