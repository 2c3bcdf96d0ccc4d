"""The recurrent graphs, run by the server's engine: the model's numbers, and the same bits in any company."""

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from mixed_beams import BEAMS, as_bits, mixed, search, sources
from seqserve.bundle import DECODER_FILE, ENCODER_FILE, MODEL_FILE, SCORER_FILE
from seqserve_export import parity, precision, proof_sources, reference
from seqserve_export.errors import ExportError
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.graphs.kernels import definitions
from seqserve_export.model import RecurrentSeq2Seq
from seqserve_export.pipeline import check_precision
from seqserve_server.config import ServerConfig
from seqserve_server.engine import RowCopy, StepInput
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.local import LocalModel
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.server import running_server
from serving import ask, ids, make_stub
from slow_beam import slow_beam
from tiny_model import EOS, START
from tiny_recurrent import RECURRENT, RecurrentBuilt

BUILT: dict[str, RecurrentBuilt] = {}


@pytest.fixture(params=list(RECURRENT))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RecurrentBuilt:
    """Each variant, traced once; the last without a scorer, for whose tracing two are enough."""
    name: str = request.param
    if name not in BUILT:
        directory = tmp_path_factory.mktemp("recurrent") / "bundle"
        BUILT[name] = RecurrentBuilt(directory, RECURRENT[name], scorer="dot" not in name)
    return BUILT[name]


@pytest.fixture
def local(built: RecurrentBuilt) -> Iterator[LocalModel]:
    with LocalModel.open(built.bundle, threads=2, scorer=(built.bundle / SCORER_FILE).exists()) as opened:
        yield opened


def only(name: str) -> pytest.MarkDecorator:
    """For tests of one variant."""
    return pytest.mark.parametrize("built", [name], indirect=True)


first = only("Bahdanau")


def test_the_graphs_compute_what_the_model_computes(built: RecurrentBuilt, local: LocalModel) -> None:
    given = proof_sources.random_sources(built.description, 40)
    proof = parity.prove(
        built.model, local, given, max_new_tokens=12, arrivals=proof_sources.arrivals(len(given))
    )
    report = proof.with_scores(local, given) if local.can_score else proof.report
    assert report.passed, report.table()
    assert (report.longest_source, report.longest_target) == (64, 64)
    assert report.mixed_differences == []


def test_inputs_and_outputs_are_those_of_the_description(built: RecurrentBuilt) -> None:
    decoder = onnxruntime.InferenceSession(built.bundle / DECODER_FILE, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in decoder.get_inputs()}
    outputs = {value.name: value.shape for value in decoder.get_outputs()}
    for state in built.description.states:
        assert state.update == ("constant" if state.scope == "request" else "replace")
        for index in range(state.count):
            name = f"{state.name}.{index}"
            shape = [each if each != "length" else "source_capacity" for each in state.shape]
            if state.scope == "row":
                assert inputs[name] == outputs[f"{name}.next"] == ["rows", *shape]
            else:
                assert inputs[name] == ["places_1", *shape]
                assert inputs[f"{name}.x8"] == ["places_8", *shape]
    config = built.model.config
    names = {state.name for state in built.description.states}
    assert names == {"hidden", "values"} | ({"keys"} if config.score != "dot" else set()) | (
        {"fed"} if config.input_feeding else set()
    )
    if built.description.alignment is not None:
        assert str(built.description.alignment) == "layer 1 of 1, head 1"


@first
def test_a_step_keeps_its_operators_few(built: RecurrentBuilt) -> None:
    model = onnx.load(built.bundle / DECODER_FILE)
    found = [node.op_type for node in model.graph.node]
    assert found.count("If") == found.count("TopCandidates") == 1
    assert found.count("Gemm") == 2 * 2 + 2  # each layer's two, the query's and the vocabulary's
    for operator in ("Where", "ScatterND", "Softmax", "Cast", "Loop", "Scan"):
        assert operator not in found
    assert {function.name for function in model.functions} <= definitions().keys()


def test_beams_of_every_size_have_the_same_bits_alone_and_in_any_mix(local: LocalModel) -> None:
    given, searches = sources(local, 42), mixed(42)
    alone = [as_bits(local.generate([one], searches=[how])[0]) for one, how in zip(given, searches, strict=True)]
    for seed in range(2):
        arrivals = [random.Random(seed * 100 + number).randrange(25) for number in range(42)]
        together = local.generate(given, searches=searches, arrivals=arrivals)
        assert [as_bits(result) for result in together] == alone
    assert len({str(each) for each in alone}) > 20
    buffers: Any = local._engine.buffers
    for name, state in buffers.states.items():
        arrays = buffers._arrays[name]
        assert not any(array.any() for array in arrays), f"{state.name} is not zero after everybody has left"


def assert_as_the_slow_search(local: LocalModel, model: RecurrentSeq2Seq, beams: Sequence[int]) -> None:
    for source in sources(local, 4, seed=1)[1:]:
        for count in beams:
            (result,) = local.generate([source], searches=[search(count)])
            slow = slow_beam(model, source, (START,), search(count))
            assert [each.token_ids for each in result.hypotheses] == [each.token_ids for each in slow]
            for one, other in zip(result.hypotheses, slow, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4)


def test_beams_find_what_a_slow_search_over_the_model_finds(local: LocalModel, built: RecurrentBuilt) -> None:
    assert_as_the_slow_search(local, built.model, BEAMS)


@first
def test_the_slow_search_sees_hidden_layers_that_do_not_go_with_their_hypotheses(
    local: LocalModel, built: RecurrentBuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(self: HostBuffers, copies: Sequence[RowCopy]) -> None:
        del self, copies

    monkeypatch.setattr(HostBuffers, "copy", forget)
    with pytest.raises(AssertionError):
        assert_as_the_slow_search(local, built.model, (4,))


@first
def test_the_proof_sees_first_hidden_layers_that_are_left_out(
    local: LocalModel, built: RecurrentBuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HostBuffers.write_source
    monkeypatch.setattr(
        HostBuffers, "write_source", lambda self, name, *rest: None if name == "hidden" else write(self, name, *rest)
    )
    given = proof_sources.random_sources(built.description, 20)[:4]
    report = parity.prove(built.model, local, given, max_new_tokens=4, arrivals=[0] * 4).report
    assert not report.passed


@first
def test_a_longer_neighbour_is_seen_where_sums_are_not_in_groups_of_16(
    tmp_path: Path, built: RecurrentBuilt
) -> None:
    """The control of the tests of bits: the same graph whose extents are not rounded up."""
    for name in (ENCODER_FILE, "weights.data"):
        shutil.copy(built.bundle / name, tmp_path)
    (tmp_path / MODEL_FILE).write_text(dataclasses.replace(built.description, alignment=None).to_json())
    model = onnx_ir.load(built.bundle / DECODER_FILE)
    within = next(function for key, function in model.functions.items() if key[1] == "SourceWithin")
    for node in within:
        if (value := {"less": 0, "sixteen": 1}.get(str(node.outputs[0].name))) is not None:
            node.attributes["value_int"] = onnx_ir.AttrInt64("value_int", value)
    onnx_ir.save(model, tmp_path / DECODER_FILE)
    with LocalModel.open(tmp_path, threads=1, verify=False, scorer=False) as odd:
        given = sources(odd, 42)
        alone = [as_bits(odd.generate([one], max_new_tokens=10)[0]) for one in given]
        together = [as_bits(result) for result in odd.generate(given, max_new_tokens=10)]
    assert together != alone


def pairs(count: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Sources and targets around the lengths where padding grows, with prompts of one to three tokens."""
    rng = random.Random(7)

    def some(length: int) -> list[int]:
        return [rng.randrange(3, 50) for _ in range(length)]

    lengths = (1, 2, 15, 16, 17, 40)
    return (
        [[*some(rng.choice(lengths) - 1), EOS] for _ in range(count)],
        [[*some(rng.choice(lengths) - 1), EOS] for _ in range(count)],
        [[START, *some(rng.randrange(3))] for _ in range(count)],
    )


def test_scores_and_attention_are_the_models_in_any_company(built: RecurrentBuilt, local: LocalModel) -> None:
    if not local.can_score:
        pytest.skip("this variant was traced without a scorer")
    asked = pairs(24)
    alone = [local.score(*([one] for one in each))[0] for each in zip(*asked, strict=True)]
    for count in (2, 5, 24):
        order = random.Random(count).sample(range(24), count)
        together = local.score(*([each[place] for place in order] for each in asked))
        for place, scored in zip(order, together, strict=True):
            assert scored.log_probs.tobytes() == alone[place].log_probs.tobytes()
            assert scored.alignment.tobytes() == alone[place].alignment.tobytes()
    for scored, source, target, prompt in list(zip(alone, *asked, strict=True))[:8]:
        lengths = torch.tensor([len(source)])
        state = built.model.begin(built.model.encode(torch.tensor([source]), lengths), lengths)
        logits = built.model.decode(torch.tensor([[*prompt, *target[:-1]]]), state)[0, len(prompt) - 1 :]
        own = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(target)[:, None])[:, 0]
        np.testing.assert_allclose(scored.log_probs, own.numpy(), atol=1e-4)
        weights = torch.cat(state.weights[len(prompt) - 1 :])
        np.testing.assert_allclose(scored.alignment, weights.numpy(), atol=1e-5)


@first
def test_a_part_of_a_step_has_the_bits_of_the_whole_and_touches_nobody_else(built: RecurrentBuilt) -> None:
    with LocalModel.open(built.bundle, threads=1) as local:
        loop, engine = local._loop, local._engine
        assert isinstance(engine, OrtEngine)
        given = sources(local, 8)
        for source in given:
            loop.submit([local._request(source, (START,), local._greedy(12, 0), "source")])
        loop.step()
        loop.step()
        plan = loop._scheduler.plan(0.0)
        step = StepInput(plan.tokens, plan.positions, plan.candidates, plan.layout)
        before = engine.buffers.current("hidden").copy()
        part = engine.step_part(step, [1, 3])
        log_probs, token_ids = part.log_probs.copy(), part.token_ids.copy()
        changed = np.nonzero((engine.buffers.current("hidden") != before).any(axis=(0, 2)))[0].tolist()
        assert changed == [1, 3]
        engine.buffers.current("hidden")[...] = before
        whole = engine.step(step)
        assert whole.log_probs[[1, 3]].tobytes() == log_probs.tobytes()
        assert whole.token_ids[[1, 3]].tobytes() == token_ids.tobytes()


@first
def test_what_a_row_holds_does_not_grow_with_its_target(local: LocalModel, built: RecurrentBuilt) -> None:
    cost = local.served.limits.cost
    assert cost.row.of(1000, 0) == cost.row.of(1, 0) == 2 * 2 * 32 * 4  # two layers, and two buffers that take turns
    assert cost.place.of(0, 10) == 10 * 4 * (32 + 32)  # keys padded to 32, values of 32


@first
def test_int8_has_the_same_bits_alone_and_in_any_mix(tmp_path: Path, built: RecurrentBuilt) -> None:
    work = tmp_path / "int8"
    work.mkdir()
    precision.write_rounded(built.bundle, work, built.description, "int8", lambda _: None)
    products = [node for node in onnx.load(work / DECODER_FILE).graph.node if node.op_type.startswith("Product")]
    assert len(products) == 2 * 2 + 2  # each layer's two, the query's and the vocabulary's
    with LocalModel.open(work, verify=False, threads=1) as rounded:
        given, searches = sources(rounded, 21), mixed(21)
        alone = [as_bits(rounded.generate([one], searches=[how])[0]) for one, how in zip(given, searches, strict=True)]
        arrivals = [number * 5 % 7 for number in range(21)]
        assert [as_bits(each) for each in rounded.generate(given, searches=searches, arrivals=arrivals)] == alone
        exact = reference.greedy(built.model, given, 4)
        close = [one.token_ids[:1] == other.token_ids[:1] for one, other in zip(
            exact, rounded.generate(given, max_new_tokens=4), strict=True
        )]
    assert sum(close) > len(close) / 2


@first
async def test_both_kinds_of_models_run_in_one_server(built: RecurrentBuilt, tiny_bundle: Path) -> None:
    config = ServerConfig(bundles=(built.bundle, tiny_bundle), port=0, metrics_port=0, threads=1, cache_bytes=64 << 20)
    async with running_server(config) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = make_stub(channel)
        rng = random.Random(3)
        asked = [
            ask(ids(*(rng.randrange(3, 50) for _ in range(rng.choice((1, 5, 18))))), model=model,
                max_new_tokens=9, beam_size=beams, return_alignment=beams == 2)
            for model in ("recurrent", "tiny") for beams in (1, 1, 2, 4)
        ]
        alone = [await stub.Generate(each) for each in asked]
        together = await asyncio.gather(*(stub.Generate(each) for each in asked * 3))
        for number, response in enumerate(together):
            expected = alone[number % len(asked)]
            assert list(response.results[0].hypotheses) == list(expected.results[0].hypotheses)


@first
def test_precisions_without_rules_for_these_graphs_are_refused(built: RecurrentBuilt, tmp_path: Path) -> None:
    loaded = LoadedCheckpoint(
        family="bahdanau", model=built.model, source_prefix=(), source_suffix=(EOS,), unk_id=None,
        default_max_new_tokens=20,
    )
    check_precision(loaded, "int8")
    with pytest.raises(ExportError, match="--precision fp16: the family bahdanau is there in fp32 and int8 only"):
        check_precision(loaded, "fp16")
