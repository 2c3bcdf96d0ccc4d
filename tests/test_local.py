"""Decoding in this process: a source's answer is the same bits alone and in any mix."""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from seqserve.bundle import BundleError
from seqserve_server.errors import InputTooLong, InvalidRequest
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished

rng = random.Random(0)
SOURCES = [
    (*(rng.randrange(3, 200) for _ in range(length - 1)), 1)
    for length in itertools.chain(rng.choices((1, 2, 3, 6, 16, 17, 18, 33, 60, 100), k=80), [1] * 10)
]
ARRIVALS = [rng.randrange(60) for _ in SOURCES]
LIMIT = 16


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> Iterator[LocalModel]:
    with LocalModel.open(tiny_bundle, threads=2) as opened:
        yield opened


def alone(local: LocalModel) -> list[Finished]:
    return [local.generate([source], max_new_tokens=LIMIT)[0] for source in SOURCES]


def differences(one: list[Finished], other: list[Finished]) -> tuple[int, int]:
    """Answers that differ in a token, and in a bit of a log-probability."""
    pairs = list(zip(one, other, strict=True))
    tokens = sum((a.token_ids, a.finish_reason) != (b.token_ids, b.finish_reason) for a, b in pairs)
    return tokens, sum(as_bits(a) != as_bits(b) for a, b in pairs)


def as_bits(result: Finished) -> list[int]:
    values: list[int] = np.array(result.log_probs, dtype=np.float32).view(np.uint32).tolist()
    return values


def test_answers_are_the_same_bits_alone_and_in_any_mix(local: LocalModel, tiny_bundle: Path) -> None:
    expected = alone(local)
    assert {result.finish_reason for result in expected} == {"eos", "length"}
    assert len({tuple(result.token_ids) for result in expected}) > 40
    assert differences(expected, local.generate(SOURCES, max_new_tokens=LIMIT)) == (0, 0)
    for seed in range(3):
        arrivals = random.Random(seed).sample(ARRIVALS, len(ARRIVALS))
        assert differences(expected, local.generate(SOURCES, max_new_tokens=LIMIT, arrivals=arrivals)) == (0, 0)
    with LocalModel.open(tiny_bundle, threads=1, max_rows=5, encode_tokens=40) as narrow:
        assert differences(expected, narrow.generate(SOURCES, max_new_tokens=LIMIT, arrivals=ARRIVALS)) == (0, 0)


def test_the_comparison_would_notice_a_setting_that_breaks_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutPrepacking(ort.SessionOptions):  # type: ignore[misc]
        """Single rows then go through another kernel than several."""

        def __init__(self) -> None:
            super().__init__()
            self.add_session_config_entry("session.disable_prepacking", "1")

    monkeypatch.setattr(ort, "SessionOptions", WithoutPrepacking)
    with LocalModel.open(tiny_bundle, threads=2) as broken:
        _, bits = differences(alone(broken), broken.generate(SOURCES, max_new_tokens=LIMIT, arrivals=ARRIVALS))
    assert bits > 0


def test_sources_of_different_limits_do_not_disturb_one_another(local: LocalModel) -> None:
    short = local.generate(SOURCES[:10], max_new_tokens=3)
    long = local.generate(SOURCES[:10], max_new_tokens=LIMIT)
    for one, other in zip(short, long, strict=True):
        assert one.token_ids == other.token_ids[: len(one.token_ids)]
        assert one.log_probs == other.log_probs[: len(one.log_probs)]


def test_a_result_is_its_tokens_their_log_probabilities_and_their_mean(local: LocalModel) -> None:
    for result in local.generate(SOURCES, max_new_tokens=LIMIT):
        ended = result.finish_reason == "eos"
        assert len(result.log_probs) == len(result.token_ids) + ended
        assert 1 not in result.token_ids
        assert result.score == sum(result.log_probs) / len(result.log_probs)
        assert ended or len(result.token_ids) == LIMIT


def test_tokens_are_the_best_of_the_step_logits(local: LocalModel) -> None:
    for source in SOURCES[:6]:
        (result,) = local.generate([source], max_new_tokens=8)
        chosen = result.token_ids + [1] * (result.finish_reason == "eos")
        logits = local.step_logits(source, chosen)
        assert logits.argmax(axis=1).tolist() == chosen
        assert local.encoder_states(source).shape == (len(source), 64)


def test_proving_and_generating_leave_no_state_behind(local: LocalModel) -> None:
    expected = local.generate(SOURCES[:5], max_new_tokens=LIMIT)
    local.step_logits(SOURCES[40], [5, 6, 7])
    local.encoder_states(SOURCES[41])
    assert differences(local.generate(SOURCES[:5], max_new_tokens=LIMIT), expected) == (0, 0)
    buffers: Any = local._engine.buffers
    assert not buffers.current("self").any()
    assert not any(buffers.of_width("cross", width).any() for width in range(3))


def test_a_minimum_holds_the_end_token_back(local: LocalModel) -> None:
    for result in local.generate(SOURCES, max_new_tokens=LIMIT, min_new_tokens=LIMIT):
        assert len(result.token_ids) == LIMIT
        assert result.finish_reason == "length"


def test_a_stream_is_the_unary_answer_in_parts(local: LocalModel) -> None:
    for source in SOURCES[:8]:
        *parts, end = local.stream(source, max_new_tokens=LIMIT)
        (whole,) = local.generate([source], max_new_tokens=LIMIT)
        assert isinstance(end, Finished)
        assert differences([end], [whole]) == (0, 0)
        assert [token_id for part in parts if isinstance(part, list) for token_id in part] == whole.token_ids


def test_a_stream_that_is_left_frees_its_row(local: LocalModel) -> None:
    stream: Any = local.stream(SOURCES[0], max_new_tokens=LIMIT, min_new_tokens=LIMIT)
    next(stream)
    stream.close()
    assert local._loop._scheduler.idle
    buffers: Any = local._engine.buffers
    assert not buffers.current("self").any()


@pytest.mark.parametrize(("source", "error"), [
    ((), InvalidRequest), ((-1, 1), InvalidRequest), ((200, 1), InvalidRequest), ((3,) * 129, InputTooLong),
])
def test_ids_that_the_model_does_not_know_never_reach_the_runtime(
    local: LocalModel, source: tuple[int, ...], error: type[InvalidRequest]
) -> None:
    with pytest.raises(error):
        local.generate([SOURCES[0], source])
    with pytest.raises(error):
        list(local.stream(source))
    assert local._loop._scheduler.idle


def test_the_longest_source_and_answer_fit(local: LocalModel) -> None:
    (result,) = local.generate([(3,) * 127 + (1,)], max_new_tokens=128, min_new_tokens=128)
    assert len(result.token_ids) == 128


def test_a_bundle_that_does_not_match_its_manifest_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "scorer.onnx", "weights.data", "model.json", "manifest.json"):
        (tmp_path / name).write_bytes((tiny_bundle / name).read_bytes())
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace("a", "b"))
    with pytest.raises(BundleError):
        LocalModel.open(tmp_path)
    with LocalModel.open(tmp_path, verify=False) as local:
        assert local.version == "unverified"


def test_the_version_is_that_of_the_manifest(local: LocalModel) -> None:
    assert len(local.version) == 12
    assert local.description.name == "tiny"


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "linked"])
def test_weights_from_outside_the_bundle_are_never_read(tiny_bundle: Path, tmp_path: Path, location: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    shutil.copyfile(bundle / "weights.data", tmp_path / "weights.data")
    (bundle / "linked").symlink_to(tmp_path / "weights.data")
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(graph, bundle / "decoder.onnx")
    with pytest.raises(BundleError, match=r"decoder\.onnx: the runtime refuses it: .*External data path"):
        LocalModel.open(bundle, verify=False)
