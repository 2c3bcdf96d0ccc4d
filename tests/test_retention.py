"""Retention behind its graphs: what the model computes, the same bits in any company, memory that does not grow."""

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest

from built_bundle import Built
from mixed_beams import BEAMS, as_bits, assert_same_in_any_company, mixed, search, sources
from one_operator import Arrays, needs_library, numbers, session
from play import Play, real, requests, told
from seqserve.manifest import write_manifest
from seqserve_export import parity, precision, proof_sources
from seqserve_export.errors import ExportError
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server import kernels
from seqserve_server.engine import Candidates, StepInput
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.local import LocalModel
from seqserve_server.placement import Place
from seqserve_server.request import Failed
from seqserve_server.server import open_model, running_server
from seqserve_server.state_buffers import ROWS, UNUSED, Edit
from serving import ask, ids, make_config, make_stub
from slow_beam import slow_beam
from tiny_model import write_native
from variants import ALONE

BAD_LENGTH = 11  # of a source that fails; no other is as long


@pytest.fixture(scope="module")
def retnet(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory, "retention")


@pytest.fixture
def local(retnet: Built) -> Iterator[LocalModel]:
    with LocalModel.open(retnet.bundle, verify=False, threads=1) as opened:
        yield opened


def test_the_graphs_compute_what_the_model_computes(retnet: Built, local: LocalModel) -> None:
    given = proof_sources.random_sources(retnet.description, 40)
    report = parity.prove(
        retnet.checkpoint.model, local, given, max_new_tokens=12, arrivals=proof_sources.arrivals(len(given))
    ).with_scores(local, given)
    assert report.passed, report.table()
    assert report.longest_target == 96


def test_the_state_is_one_matrix_per_head_that_each_step_replaces(retnet: Built) -> None:
    own, cross = retnet.description.states
    assert (own.name, own.count, own.shape) == ("retention", 2, (4, 6, 21))
    assert (own.dtype, own.scope, own.length, own.update) == ("float32", "row", "fixed", "replace")
    assert (cross.name, cross.count, cross.shape) == ("cross", 4, (4, "length", 8))
    decoder = onnxruntime.InferenceSession(retnet.bundle / "decoder.onnx", providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in (*decoder.get_inputs(), *decoder.get_outputs())}
    for index in range(2):
        assert shapes[f"retention.{index}"] == shapes[f"retention.{index}.next"] == ["rows", 4, 6, 21]
    assert not any(name.startswith("self") for name in shapes)


def test_memory_does_not_grow_with_what_is_generated(local: LocalModel) -> None:
    given = [5, 6, 7, 1]
    local.generate([given], max_new_tokens=2, min_new_tokens=2)
    before = local.served.engine.state_bytes
    (answer,) = local.generate([given], max_new_tokens=90, min_new_tokens=90)
    assert len(answer.token_ids) > 80
    assert local.served.engine.state_bytes == before


def test_beams_of_every_size_have_the_same_bits_alone_and_in_any_mix(local: LocalModel) -> None:
    assert_same_in_any_company(local, 30)


def test_so_they_have_by_the_definition_of_the_operator(retnet: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "compiled_library", lambda: None)
    with LocalModel.open(retnet.bundle, verify=False, threads=1) as opened:
        assert_same_in_any_company(opened, 16)


def test_beams_find_what_a_slow_search_over_the_model_finds(retnet: Built, local: LocalModel) -> None:
    prompt = local.description.framing.example().prompt
    for source in sources(local, 3, seed=1)[1:]:
        for beams in BEAMS[2:6:3]:
            (result,) = local.generate([source], searches=[search(beams)])
            slow = slow_beam(retnet.checkpoint.transformer, source, prompt, search(beams))
            assert [each.token_ids for each in result.hypotheses] == [each.token_ids for each in slow]
            for one, other in zip(result.hypotheses, slow, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4)


def without(monkeypatch: pytest.MonkeyPatch, lost: Callable[[Edit], bool]) -> None:
    """Buffers that leave some edits out."""
    honest = HostBuffers._edit
    monkeypatch.setattr(
        HostBuffers, "_edit", lambda self, edits: honest(self, [each for each in edits if not lost(each)])
    )


def test_a_state_that_does_not_move_with_its_row_is_found(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda edit: edit.scope == ROWS and edit.source != UNUSED and edit.start == 0)
    with pytest.raises(AssertionError):
        assert_same_in_any_company(local, 30)


def test_a_state_that_a_hypothesis_does_not_take_along_is_found(
    retnet: Built, local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, lambda edit: edit.scope == ROWS and edit.source != UNUSED)
    with pytest.raises(AssertionError):
        test_beams_find_what_a_slow_search_over_the_model_finds(retnet, local)


class FailingSession:
    """The step graph, which raises at the end of a run over a bad source.

    ``FaultyEngine`` raises when a step is over. To a cache that is all one: it is written again at the same position.
    A state that was replaced has been replaced.
    """

    def __init__(self, play: Play) -> None:
        self.play, self.raised = play, 0
        engine: Any = play.faulty.inner
        self.session, engine._decoder = engine._decoder, self
        self.bad, self.step, engine.step = False, engine.step, self.watch

    def watch(self, step: StepInput) -> Candidates:
        """A part of a step comes by here too; there, sources are known by their lengths alone."""
        engine: Any = self.play.faulty.inner
        self.bad = any(
            engine._sources.length(Place(width, place)) == BAD_LENGTH
            for width, place in zip(step.layout.widths, step.layout.places, strict=True)
        )
        found: Candidates = self.step(step)
        return found

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        self.session.run_with_iobinding(binding)
        if self.bad:
            self.raised += 1
            raise RuntimeError("a decoder at /secret/path breaks on a bad source")


@pytest.mark.parametrize("guilty", [(), (2, 9, 15)])
def test_of_a_step_that_fails_only_the_guilty_fail_and_the_others_keep_every_bit(
    retnet: Built, guilty: tuple[int, ...]
) -> None:
    rng = random.Random(1)
    given, arrivals = requests(20, 1), [rng.randrange(6) for _ in range(20)]
    for number in guilty:
        given[number] = dataclasses.replace(given[number], source=(*[7] * (BAD_LENGTH - 1), 1))
    expected = real(retnet.bundle).run(given, arrivals)
    play = real(retnet.bundle)
    failing = FailingSession(play)
    if not guilty:
        play.faulty.broken = set(range(0, 40, 3))
    found = play.run(given, arrivals)
    assert play.faulty.raised + failing.raised > 3
    assert {number for number, event in found.items() if isinstance(event, Failed)} == set(guilty)
    for number in set(range(20)) - set(guilty):
        assert told(found[number]) == told(expected[number])
    buffers: Any = play.faulty.inner.buffers  # type: ignore[attr-defined]
    assert not any(array.any() for arrays in buffers._arrays.values() for array in arrays), "a slot was not zeroed"


def test_a_pair_is_scored_with_the_same_bits_alone_and_in_any_mix(local: LocalModel) -> None:
    pairs = [(sources(local, 14, seed=2)[number], sources(local, 14, seed=3)[number]) for number in range(14)]
    alone = [local.score([source], [target])[0] for source, target in pairs]
    together = local.score(*map(list, zip(*reversed(pairs), strict=True)))
    for one, other in zip(alone, reversed(together), strict=True):
        assert one.log_probs.tobytes() == other.log_probs.tobytes()
        assert one.alignment.tobytes() == other.alignment.tobytes()
        np.testing.assert_allclose(one.alignment.sum(axis=1), 1, atol=1e-5)


def test_eight_bits_round_the_matrices_and_leave_the_state_alone(retnet: Built, tmp_path: Path) -> None:
    rounded = shutil.copytree(retnet.bundle, tmp_path / "int8")
    given = proof_sources.random_sources(retnet.description, 24)
    report = precision.round_bundle(
        rounded, retnet.description, given, precision="int8", max_new_tokens=8, min_agreement=0.0,
        arrivals=proof_sources.arrivals(len(given)), open_bundle=LocalModel.open, progress=lambda _: None,
    )
    assert report.mixed_equal == report.sources == 24
    assert report.logit_mean < 0.2 * report.logit_deviation
    with LocalModel.open(rounded, verify=False) as opened:
        assert opened.description.states == retnet.description.states


def test_half_precision_is_refused_before_any_work(tmp_path: Path) -> None:
    write_native(tmp_path / "source", **ALONE["retention"])
    options = ExportOptions(source=tmp_path / "source", out=tmp_path / "out", precision="fp16")
    with pytest.raises(ExportError, match="--precision fp16: the family retnet is there in fp32 and int8 only"):
        export_bundle(options, LocalModel.open)
    assert not (tmp_path / "out").exists()


async def test_one_server_serves_it_beside_a_transformer(retnet: Built, tiny_bundle: Path, tmp_path: Path) -> None:
    named = shutil.copytree(retnet.bundle, tmp_path / "retnet")
    (named / "model.json").write_text(dataclasses.replace(retnet.description, name="retnet").to_json())
    write_manifest(named)
    bundles, expected = {"retnet": named, "tiny": tiny_bundle}, {}
    asked: dict[str, list[Any]] = {}
    for name, bundle in bundles.items():
        with LocalModel.open(bundle, threads=1) as opened:
            asked[name] = list(zip(sources(opened, 10, seed=4)[2:], mixed(8, seed=5), strict=True))
            expected[name] = [
                as_bits(opened.generate([one], searches=[search(how.beam_size)])[0]) for one, how in asked[name]
            ]
    settings = make_config(bundles=tuple(bundles.values()), threads=1, cache_bytes=1 << 26)
    calls = [(name, source, how.beam_size) for name in asked for source, how in asked[name]]
    random.Random(6).shuffle(calls)
    async with (
        running_server(settings, open_model) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = make_stub(channel)

        async def call(name: str, source: Any, beams: int) -> list[Any]:
            response = await stub.Generate(ask(
                ids(*source[:-1]), model=name, max_new_tokens=10, beam_size=beams, num_hypotheses=beams
            ))
            return [list(each.token_ids) for each in response.results[0].hypotheses]

        answers = await asyncio.gather(*(call(*each) for each in calls))
    for (name, source, _), answer in zip(calls, answers, strict=True):
        place = [one for one, _ in asked[name]].index(source)
        assert answer == [tokens for tokens, *_ in expected[name][place]]


def operands(rows: int, heads: int, key_size: int, value_size: int, seed: int) -> Arrays:
    return {
        "query": numbers(seed, rows, heads, key_size), "key": numbers(seed + 1, rows, heads, key_size),
        "value": numbers(seed + 2, rows, heads, value_size),
        "state": numbers(seed + 3, rows, heads, key_size, value_size),
        "decay": np.float32(1) - np.float32(2) ** -np.arange(5, 5 + heads, dtype=np.float32)[:, None, None],
    }


@needs_library
@pytest.mark.parametrize("sizes", [(4, 32, 64), (3, 6, 21), (1, 1, 1), (2, 128, 16), (2, 40, 200)])
def test_the_compiled_operator_is_its_definition(sizes: tuple[int, int, int]) -> None:
    inputs = operands(7, *sizes, seed=20)
    compiled, defined = (session("Retain", inputs, {}, compiled=given).run(None, inputs) for given in (True, False))
    np.testing.assert_array_equal(compiled[1], defined[1])
    np.testing.assert_allclose(compiled[0], defined[0], atol=1e-6 * 4 * sizes[1])


@needs_library
@pytest.mark.parametrize("level", ["v3", "plain"])
def test_every_processor_computes_the_same_bits_for_a_row_alone_and_among_others(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = operands(40, 4, 32, 64, seed=30)
    together = session("Retain", inputs, {}, compiled=True).run(None, inputs)
    monkeypatch.setenv("SEQSERVE_KERNELS", level)
    opened = session("Retain", inputs, {}, compiled=True)
    for row in range(40):
        alone = {name: array if name == "decay" else array[row : row + 1] for name, array in inputs.items()}
        for one, other in zip(opened.run(None, alone), together, strict=True):
            np.testing.assert_array_equal(one[0], other[row])


@needs_library
@pytest.mark.parametrize("change", [
    {"query": numbers(1, 2, 2, 5)}, {"key": numbers(1, 2, 1, 6)}, {"value": numbers(1, 3, 2, 5)},
    {"state": numbers(1, 2, 2, 6, 4)}, {"decay": numbers(1, 3, 1, 1)},
])
def test_shapes_that_do_not_fit_are_refused(change: Arrays) -> None:
    inputs = operands(2, 2, 6, 5, seed=40)
    opened = session("Retain", inputs, {}, compiled=True)
    with pytest.raises(Exception, match="retention: shapes do not fit"):
        opened.run(None, inputs | change)
