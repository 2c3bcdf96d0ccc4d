"""Alignments, coverage and unknown tokens: what answers make of attention, by pencil and through a real server."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arithmetic_engine import END, START, ArithmeticEngine
from refusals import refusal
from seqserve_cli.main import main
from seqserve_client import InvalidInput
from seqserve_server.admission import Resolved
from seqserve_server.answers import Asked, with_attention
from seqserve_server.attention import coverage, pairs_of, scorable, weights_of
from seqserve_server.decoding.search import Hypothesis, SearchSettings
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished, FinishReason, Request, Times
from serving import ENDLESS, ask, ask_stream, ids, make_config, make_model, serving
from test_beam_service import CONTENTS, LIMIT, client_of

MODEL = make_model(make_config(), ArithmeticEngine(1 << 20))
TIMES = Times(1.0, 2.0, 4.0, 5.0, 9.0)
SOURCE = (5, 6, 7, END)
FOUND = [
    Hypothesis([5, 0], [-0.5, -0.25, -0.75], -0.5, ended=True),
    Hypothesis([7], [-1.0], -0.6, ended=False),
    Hypothesis([], [-4.0], -0.65, ended=True),
]
WEIGHTS = [
    np.array([[0.5, 0.5, 0, 0], [0, 0.25, 0.5, 0.25], [0, 0, 0, 1]], dtype=np.float32),
    np.array([[0.25, 0.25, 0.25, 0.25]], dtype=np.float32),
    np.array([[0, 0, 1, 0]], dtype=np.float32),
]


def asked(search: SearchSettings | None = None, **options: Any) -> Asked:
    search = search or SearchSettings(END, 9, beam_size=3, num_hypotheses=3)
    resolved = Resolved(search, MODEL.description.framing.frame(), **options)
    return Asked(Request(1, SOURCE, resolved.prompt, search, deadline=7.0), resolved)


def ended() -> Finished:
    return Finished(1, FinishReason.EOS, FOUND, TIMES)


def test_hypotheses_become_pairs_with_their_prefix_and_an_end_where_they_have_one() -> None:
    one = asked(prefix=(9,))
    pairs = pairs_of(ended(), one.request, one.options, END)
    assert [pair.pair.target for pair in pairs] == [(START, 9, 5, 0, END), (START, 9, 7), (START, 9, END)]
    assert {(pair.pair.source, pair.pair.prompt, pair.deadline) for pair in pairs} == {(SOURCE, 1, 7.0)}
    bare = asked()
    nothing = Finished(1, FinishReason.LENGTH, [Hypothesis([], [], 0.0, ended=False)], TIMES)
    (pair,) = pairs_of(nothing, bare.request, bare.options, END)
    assert not scorable(pair)
    assert weights_of([pair], iter(()))[0].shape == (0, 4)


def test_coverage_is_the_sum_of_logs_of_what_each_source_token_got() -> None:
    assert coverage(WEIGHTS[0]) == pytest.approx(math.log(0.5) + math.log(0.75) + math.log(0.5) + math.log(1))
    assert coverage(WEIGHTS[1]) == pytest.approx(4 * math.log(0.25))
    assert coverage(WEIGHTS[2]) == 0, "what got nothing does not count, as in CTranslate2"


@pytest.mark.parametrize(("weight", "order", "reason"), [
    (0.0, [0, 1, 2], "eos"), (0.5, [2, 0, 1], "eos"), (-0.5, [1, 0, 2], "length"),
])
def test_coverage_orders_answers_and_the_first_says_why_it_ended(
    weight: float, order: list[int], reason: str
) -> None:
    search = SearchSettings(END, 9, beam_size=3, num_hypotheses=2, coverage_penalty=weight)
    answer = with_attention(ended(), WEIGHTS, asked(search, return_alignment=True), MODEL)
    count = 2 if weight else 3
    assert [each.token_ids for each in answer.hypotheses] == [FOUND[place].token_ids for place in order[:count]]
    expected = [FOUND[place].score + weight * coverage(WEIGHTS[place]) for place in order[:count]]
    assert [each.score for each in answer.hypotheses] == pytest.approx(expected)
    assert answer.finish_reason == reason
    for hypothesis, place in zip(answer.hypotheses, order, strict=False):
        assert hypothesis.alignment == WEIGHTS[place][: len(FOUND[place].token_ids)].tolist()
    assert answer.source_tokens == ["c", "d", "e", "</s>"]


def test_an_unknown_token_gives_way_to_the_content_that_it_attended_to_most() -> None:
    answer = with_attention(ended(), WEIGHTS, asked(replace_unknowns=True), MODEL)
    assert (answer.hypotheses[0].text, answer.hypotheses[0].tokens) == ("c e", ["c", "e"])
    assert answer.hypotheses[0].token_ids == [5, 0], "ids stay what was generated"
    assert answer.hypotheses[0].alignment is None
    to_the_end = [WEIGHTS[0].copy(), *WEIGHTS[1:]]
    to_the_end[0][1] = [0, 0.3, 0.1, 0.6]
    assert with_attention(ended(), to_the_end, asked(replace_unknowns=True), MODEL).hypotheses[0].text == "c d"


async def test_alignments_through_the_server_are_the_scorers_and_disturb_nobody(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": LIMIT, "beam_size": 3, "num_hypotheses": 2, "prefix": [9, 33]}
    async with client_of(tiny_bundle) as client:
        plain = await client.generate(token_ids=CONTENTS, **options)
        aligned = await client.generate(token_ids=CONTENTS, return_alignment=True, **options)
        *_, last = [chunk async for chunk in client.stream(token_ids=CONTENTS[2], return_alignment=True, **options)]
    with LocalModel.open(tiny_bundle, threads=1) as model:
        local = InProcess(model).generate("token_ids", CONTENTS, return_alignment=True, **options)
        for content, one, other, mine in zip(CONTENTS, plain, aligned, local, strict=True):
            for before, after, here in zip(one.hypotheses, other.hypotheses, mine.hypotheses, strict=True):
                assert after.alignment is not None
                assert dataclasses.replace(after, alignment=None) == before
                assert after.alignment == here.alignment
                (scored,) = model.score([[*content, END]], [after.token_ids])
                np.testing.assert_array_equal(after.alignment, scored.alignment)
                assert len(after.alignment) == len(after.token_ids)
    assert last.result is not None
    assert last.result.hypotheses == aligned[2].hypotheses


async def test_coverage_through_the_server_is_that_of_all_that_ended(tiny_bundle: Path) -> None:
    common: dict[str, Any] = {"max_new_tokens": LIMIT, "beam_size": 4, "stopping": "patience"}
    async with client_of(tiny_bundle) as client:
        everything = await client.generate(token_ids=CONTENTS, num_hypotheses=4, return_alignment=True, **common)
        best = await client.generate(token_ids=CONTENTS, coverage_penalty=0.7, **common)
    with LocalModel.open(tiny_bundle, threads=1) as model:
        for content, some, (chosen,) in zip(CONTENTS, everything, (each.hypotheses for each in best), strict=True):
            scores = []
            for each in some.hypotheses:
                target = [*each.token_ids, *([END] if len(each.token_ids) < LIMIT else [])]
                (scored,) = model.score([[*content, END]], [target])
                scores.append(each.score + 0.7 * coverage(scored.alignment))
            assert chosen.score >= max(scores) - 1e-6, "more may have ended than are returned without it"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"coverage_penalty": 0.5}, "options.coverage_penalty: it orders ended answers"),
    ({"replace_unknowns": True}, "options.replace_unknowns: a stream has told"),
]


@pytest.mark.parametrize(("options", "problem"), REFUSED)
async def test_what_a_stream_cannot_take_back_is_refused(
    options: dict[str, Any], problem: str
) -> None:
    async with serving() as served:
        error = await refusal(served.stub.GenerateStream(ask_stream("c d", **options)).read())
    assert error.reason == "INVALID_FIELD"
    assert error.message.startswith(problem)


@pytest.mark.parametrize("options", [{"return_alignment": True}, {"coverage_penalty": 1.0}, {"replace_unknowns": True}])
async def test_without_a_scorer_there_is_no_attention(options: dict[str, Any]) -> None:
    engine = ArithmeticEngine()
    engine.can_score = False
    async with serving(engine) as served:
        error = await refusal(served.stub.Generate(ask("c d", **options)))
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text
    assert error.reason == "NO_SCORER"


async def test_unknowns_need_words(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        with pytest.raises(InvalidInput, match=r"options\.replace_unknowns: this model has no tokenizer"):
            await client.generate(token_ids=[[5]], replace_unknowns=True)


async def test_a_served_unknown_is_replaced() -> None:
    async with serving() as served:
        plain = (await served.stub.Generate(ask(ids(*ENDLESS), max_new_tokens=3))).results[0]
        assert plain.hypotheses[0].tokens == ["<unk>"] * 3
        request = ask(ids(*ENDLESS), max_new_tokens=3, replace_unknowns=True)
        result = (await served.stub.Generate(request)).results[0]
    assert result.hypotheses[0].text == "x x x"
    assert list(result.hypotheses[0].token_ids) == [0, 0, 0]


def test_alignments_are_printed_with_json_only(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(tiny_bundle), "--token-ids", "--return-alignment", "5"]) == 2
    assert "--return-alignment is shown with --json only" in capsys.readouterr().err
