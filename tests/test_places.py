"""Cross-attention that reads places of several widths: in the graph, and in what is computed with it."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import onnx_ir
import pytest

from built_bundle import Built
from mixed_beams import BEAMS, LIMIT, as_bits, assert_same_in_any_company, mixed, search, sources
from seqserve.bundle import DECODER_FILE, ENCODER_FILE
from seqserve_export.graphs import trace
from seqserve_export.graphs.blocks import padded_head_size
from seqserve_export.graphs.places import add_places, without_places
from seqserve_export.graphs.quantize import quantize
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_server.errors import InvalidRequest
from seqserve_server.local import LocalModel
from slow_beam import slow_beam
from tiny_model import tiny_model


@pytest.fixture
def local(built: Built) -> Iterator[LocalModel]:
    with LocalModel.open(built.bundle, verify=False, threads=1) as opened:
        yield opened


def test_what_is_added_can_be_taken_out_again() -> None:
    model = tiny_model()
    traced, changed = trace.trace_decoder(model), trace.trace_decoder(model)
    add_places(changed, model.config.heads, padded_head_size(model.config.head_size))
    assert [node.op_type for node in changed.graph].count("If") == model.config.decoder_layers
    without_places(changed)

    def facts(model: onnx_ir.Model) -> tuple[object, ...]:
        graph = model.graph
        nodes = [
            (node.op_type, node.domain, [value and value.name for value in node.inputs],
             [value.name for value in node.outputs], sorted(map(str, node.attributes.values())))
            for node in graph
        ]
        ends = [[value.name for value in values] for values in (graph.inputs, graph.outputs)]
        return nodes, ends, sorted(graph.initializers)

    assert facts(changed) == facts(traced)


def write_description(directory: Path, built: Built) -> None:
    """Of a bundle whose scorer was left out."""
    (directory / "model.json").write_text(dataclasses.replace(built.description, alignment=None).to_json())


def test_a_graph_with_its_places_taken_out_gives_the_same_bits_and_refuses_beams(tmp_path: Path, built: Built) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    weights = WeightsFile(plain / "weights.data")
    for name in (ENCODER_FILE, DECODER_FILE):
        model = onnx_ir.load(built.bundle / name)
        without_places(model)
        weights.save(model, plain / name)
    write_description(plain, built)
    with LocalModel.open(built.bundle, verify=False) as whole, LocalModel.open(plain, verify=False) as bare:
        assert bare.served.limits.widths == (1,)
        given = sources(whole, 12)
        expected = [as_bits(result) for result in whole.generate(given, max_new_tokens=LIMIT)]
        arrivals = [number * 5 % 7 for number in range(12)]
        assert [as_bits(result) for result in bare.generate(given, max_new_tokens=LIMIT, arrivals=arrivals)] == expected
        with pytest.raises(InvalidRequest, match=r"options\.beam_size: .* no places for several hypotheses"):
            bare.generate(given[:1], searches=[search(2)])


def test_beams_of_every_size_have_the_same_bits_alone_and_in_any_mix(local: LocalModel) -> None:
    assert_same_in_any_company(local, 42)


def test_bindings_that_were_given_up_are_made_again(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given, searches = sources(local, 20), mixed(20)
    expected = [as_bits(result) for result in local.generate(given, searches=searches)]
    assert len(local._engine._bound) > 3
    monkeypatch.setattr("seqserve_server.ort_engine.MOST_BOUND", 2)
    assert [as_bits(result) for result in local.generate(given, searches=searches)] == expected
    assert len(local._engine._bound) <= 3


def test_beams_find_what_a_slow_search_over_the_model_finds(local: LocalModel, built: Built) -> None:
    model, prompt = built.checkpoint.transformer, local.description.framing.example().prompt
    for source in sources(local, 5, seed=1)[1:]:
        for beams in BEAMS:
            (result,) = local.generate([source], searches=[search(beams)])
            slow = slow_beam(model, source, prompt, search(beams))
            assert [each.token_ids for each in result.hypotheses] == [each.token_ids for each in slow]
            for one, other in zip(result.hypotheses, slow, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4)
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-3)
                assert one.ended == other.ended


def test_eight_hypotheses_over_a_source_of_one_token(local: LocalModel, built: Built) -> None:
    prompt = local.description.framing.example().prompt
    results = local.generate([(1,)] * 3, searches=[search(8)] * 3)
    assert as_bits(results[0]) == as_bits(results[1]) == as_bits(results[2])
    slow = slow_beam(built.checkpoint.transformer, (1,), prompt, search(8))
    assert [each.token_ids for each in results[0].hypotheses] == [each.token_ids for each in slow]


def test_int8_has_the_same_bits_alone_and_in_any_mix(tmp_path: Path, built: Built) -> None:
    weights = WeightsFile(tmp_path / "weights.data")
    for name in (ENCODER_FILE, DECODER_FILE):
        model = onnx_ir.load(built.bundle / name)
        quantize(model)
        weights.save(model, tmp_path / name)
    write_description(tmp_path, built)
    with LocalModel.open(tmp_path, verify=False, threads=1) as rounded:
        assert_same_in_any_company(rounded, 21)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_requests_with_beams_on_few_rows(local: LocalModel, built: Built, seed: int) -> None:
    given, searches = sources(local, 200, seed), mixed(200, seed)
    alone = [as_bits(local.generate([one], searches=[how])[0]) for one, how in zip(given, searches, strict=True)]
    arrivals = [random.Random(seed + number).randrange(200) for number in range(200)]
    with LocalModel.open(built.bundle, verify=False, threads=2, max_rows=14, encode_tokens=40) as narrow:
        together = narrow.generate(given, searches=searches, arrivals=arrivals)
    assert [as_bits(result) for result in together] == alone
