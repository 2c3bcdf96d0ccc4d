"""Score through the whole server: the pencil's figures, every refusal, and everything that can end a pair early."""

import asyncio
from typing import Any

import numpy as np
import pytest

from arithmetic_engine import ArithmeticEngine
from pencil import attention, scores
from refusals import refusal
from seqserve.search_defaults import SearchDefaults
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_client import AsyncClient, InvalidInput, TooManyInputs, Unsupported
from serving import PENCIL_IDS, Served, ask, ids, serving
from test_metrics_scrape import scrape, settled

SOURCE = [5, 6, 1]
END_ONLY = scores(SOURCE, [2], [1])


def connected(served: Served, **options: Any) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{served.server.port}", timeout=30, max_attempts=1, **options)


def pair(source: Any = "c d", target: Any = "l z") -> pb.ScorePair:
    """Texts as they are, lists of ids, or messages."""
    if isinstance(source, str):
        source = pb.Input(text=source)
    if isinstance(target, str):
        target = pb.Target(text=target)
    if isinstance(target, list):
        target = pb.Target(token_ids=pb.TokenIds(ids=target))
    return pb.ScorePair(source=source, target=target)


def score(*pairs: pb.ScorePair, model: str = "", **options: Any) -> pb.ScoreRequest:
    return pb.ScoreRequest(model=model, pairs=pairs, options=pb.ScoreOptions(**options))


async def test_every_form_of_a_pair_has_the_pencils_scores() -> None:
    expected = scores(SOURCE, [2], [14, 28, 1])
    async with serving() as served, connected(served) as client:
        forms: list[dict[str, Any]] = [
            {"sources": ["c d"], "targets": ["l z"]},
            {"source_tokens": [["c", "d"]], "target_tokens": [["l", "z"]]},
            {"source_token_ids": [[5, 6]], "target_token_ids": [[14, 28]]},
            {"sources": ["c d"], "target_token_ids": [[14, 28]]},
        ]
        for form in forms:
            (result,) = await client.score(**form)
            assert result.token_log_probs == expected
            assert result.score == pytest.approx(sum(expected) / 3)
            assert (result.token_ids, result.tokens, result.input_token_count) == ([14, 28], ["l", "z"], 3)
            assert (result.alignment, result.source_tokens) == (None, [])
        (aligned,) = await client.score(["c d"], ["l z"], return_alignment=True)
        assert aligned.source_tokens == ["c", "d", "</s>"]
        assert aligned.alignment is not None
        assert np.allclose(aligned.alignment, attention(3, 3)[:2])  # the end token has no row
        assert await client.score([], []) == []


async def test_an_answer_scores_as_the_search_that_found_it_said() -> None:
    defaults = SearchDefaults(length_penalty=0.5, extra_length=2)
    async with serving(description={"search": defaults}) as served, connected(served) as client:
        (found,) = await client.generate(["c d"], return_logprobs=True)
        (given,) = await client.score(["c d"], target_token_ids=[PENCIL_IDS])
        assert given.token_log_probs == found.hypotheses[0].token_log_probs
        assert given.score == found.hypotheses[0].score
        (plain,) = await client.score(["c d"], target_token_ids=[PENCIL_IDS], length_penalty=0.0)
        assert plain.score == sum(given.token_log_probs)


async def test_an_empty_target_is_its_end_token_and_the_longest_is_what_the_model_generates() -> None:
    async with serving(description={"max_target_length": 8, "default_max_new_tokens": 8}) as served:
        for empty in ("", "  ", list[int]()):
            (result,) = (await served.stub.Score(score(pair(target=empty)))).results
            assert (list(result.token_log_probs), list(result.token_ids)) == (END_ONLY, [])
        assert len((await served.stub.Score(score(pair(target=[3] * 7)))).results[0].token_log_probs) == 8
        refused = await refusal(served.stub.Score(score(pair(target=[3] * 8))))
    assert refused.message == "pairs[0].target.token_ids: 9 tokens, end token included, are over the 8 of the model"


async def test_pairs_are_answered_in_order_whatever_passes_they_went_in() -> None:
    pairs = [pair(ids(*[3] * (1 + 7 * (number % 5))), [4] * (number * 3 % 20)) for number in range(40)]
    async with serving(encode_tokens=64) as served:
        results = (await served.stub.Score(score(*pairs))).results
    assert len(served.engine.passes) > 10
    for given, result in zip(pairs, results, strict=True):
        target = list(given.target.token_ids.ids)
        assert list(result.token_ids) == target
        assert list(result.token_log_probs) == scores([*given.source.token_ids.ids, 1], [2], [*target, 1])


BAD: dict[str, tuple[pb.ScoreRequest, str, str]] = {
    "no pairs": (score(), "pairs", "0 pairs are outside 1..4"),
    "too many": (score(*[pair()] * 5), "pairs", "5 pairs are outside 1..4"),
    "no source": (score(pair(), pb.ScorePair(target=pb.Target(text="l"))), "pairs[1].source", "required"),
    "no target": (score(pb.ScorePair(source=pb.Input(text="c"))), "pairs[0].target", "required"),
    "no content": (score(pair(pb.Input())), "pairs[0].source", "one of text, tokens and token_ids"),
    "no target content": (score(pair(target=pb.Target())), "pairs[0].target", "one of text, tokens and token_ids"),
    "an empty source": (score(pair(" ")), "pairs[0].source.text", "nothing to encode"),
    "a long source": (score(pair(ids(*[5] * 32))), "pairs[0].source.token_ids", "over the limit of 32"),
    "a large text": (score(pair(target="l " * 60)), "pairs[0].target.text", "120 bytes are over the limit of 100"),
    "an id outside": (score(pair(), pair(target=[14, 29])), "pairs[1].target.token_ids[1]", "outside 0..28"),
    "a negative id": (score(pair(target=[-1])), "pairs[0].target.token_ids[0]", "outside 0..28"),
    "the end inside": (score(pair(target=[14, 1, 28])), "pairs[0].target.token_ids[1]", "end token"),
    "padding inside": (score(pair(target=[14, 3])), "pairs[0].target.token_ids[1]", "padding"),
    "an unknown token": (
        score(pair(target=pb.Target(tokens=pb.Tokens(tokens=["l", "zz"])))), "pairs[0].target.tokens[1]", "vocabulary"
    ),
    "a penalty": (score(pair(), length_penalty=11.0), "options.length_penalty", "outside -10..10"),
    "no number": (score(pair(), length_penalty=float("nan")), "options.length_penalty", "outside -10..10"),
    "a language": (score(pair(), target_language="de"), "options.target_language", "takes no target language"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_call_names_the_field_and_the_limit_and_starts_nothing(name: str) -> None:
    request, field, text = BAD[name]
    async with serving(max_inputs=4, max_text_bytes=100, description={"pad_id": 3}) as served:
        refused = await refusal(served.stub.Score(request))
        assert (refused.code.name, refused.reason) in (
            ("INVALID_ARGUMENT", "INVALID_FIELD"), ("INVALID_ARGUMENT", "INPUT_TOO_LONG")
        )
        assert (refused.field, text in refused.message) == (field, True), refused.message
        assert (served.inside, len(served.engine.passes)) == (0, 1)  # the warm-up's
        assert len((await served.stub.Score(score(*[pair()] * 4))).results) == 4


async def test_a_model_without_a_scorer_says_how_to_get_one() -> None:
    engine = ArithmeticEngine()
    engine.can_score = False
    async with serving(engine) as served, connected(served) as client:
        refused = await refusal(served.stub.Score(score(pair())))
        assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "NO_SCORER")
        assert "seqserve export" in refused.message
        with pytest.raises(Unsupported, match="without a scorer"):
            await client.score(["c"], ["l"])
        assert not (await client.info()).models[0].has_scorer
        assert (await served.stub.Generate(ask("c d"))).results
    async with serving() as served, connected(served) as client:
        assert (await client.info()).models[0].has_scorer


async def test_the_clients_errors_are_typed() -> None:
    async with serving(max_inputs=2, tokenizer=False) as served, connected(served) as client:
        with pytest.raises(TooManyInputs):
            await client.score(source_token_ids=[[5]] * 3, target_token_ids=[[5]] * 3)
        with pytest.raises(InvalidInput, match="no tokenizer") as caught:
            await client.score(source_token_ids=[[5]], targets=["l"])
        assert caught.value.field == "pairs[0].target.text"
        (result,) = await client.score(source_token_ids=[[5]], target_token_ids=[[5]], return_alignment=True)
        assert (result.tokens, result.source_tokens) == ([], [])
        assert result.alignment is not None
        assert len(result.alignment) == 1


async def test_pairs_beyond_the_queue_are_refused_and_leave_no_trace() -> None:
    async with serving(max_waiting=2, max_rows=1) as served:
        refused = await refusal(served.stub.Score(score(*[pair()] * 4)))
        assert (refused.code.name, refused.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert served.inside == 0
        assert len((await served.stub.Score(score(*[pair()] * 3))).results) == 3


async def test_streams_go_on_while_pairs_wait_and_a_cancelled_call_gives_its_places_back() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        stream = served.stub.Generate(ask("c d"))
        await served.until_stepping()
        call = served.stub.Score(score(*[pair()] * 3))
        await served.until(lambda: served.inside == 4)
        call.cancel()
        await served.until_abandoned(3)
        engine.allow()
        assert list((await stream).results[0].hypotheses[0].token_ids) == PENCIL_IDS
        page = await settled(served, 4)
        assert len(engine.passes) == 1  # the warm-up's: nobody waited any more
    assert page.value("seqserve_requests_total", finish_reason="cancelled") == 3


async def test_a_deadline_ends_a_pair_that_waits() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        stream = served.stub.Generate(ask("c d"))
        await served.until_stepping()
        refused = await refusal_without_details(served.stub.Score(score(pair()), timeout=0.2))
        assert refused == "DEADLINE_EXCEEDED"
        engine.allow()
        await stream
        await served.until(lambda: served.inside == 0)


async def refusal_without_details(call: Any) -> str:
    """The code alone: the client's own clock may be the first."""
    import grpc

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(caught.value.code().name)


async def test_a_bad_pair_fails_its_call_and_no_other() -> None:
    engine = ArithmeticEngine()
    engine.poison, engine.nan = 27, 28
    async with serving(engine) as served:
        poisoned, nan, good = await asyncio.gather(
            refusal(served.stub.Score(score(pair(), pair(ids(27))))), refusal(served.stub.Score(score(pair(ids(28))))),
            served.stub.Score(score(*[pair()] * 5)),
        )
        assert len(good.results) == 5
        for refused, text in ((poisoned, "the scorer failed"), (nan, "not finite")):
            assert (refused.code.name, text in refused.message) == ("INTERNAL", True)
        page = await settled(served, 8)
    assert page.value("seqserve_requests_total", finish_reason="failed") == 2
    assert page.value("seqserve_requests_total", finish_reason="scored") == 6


async def test_known_pairs_are_counted_exactly() -> None:
    async with serving() as served:
        await served.stub.Score(score(pair(), pair(target="")))
        await served.stub.Score(score(pair(target="l z y w")))
        page = await settled(served, 3)
        assert (await scrape(served)).value("seqserve_requests_waiting") == 0
    assert page.value("seqserve_scored_tokens_total") == 3 + 1 + 5
    assert page.value("seqserve_score_seconds_count") == 2
    assert page.value("seqserve_input_tokens_total") == 3 * 3
    assert page.value("seqserve_output_tokens_total") == 0
    assert page.value("seqserve_request_duration_seconds_count") == 0
    assert page.value("grpc_server_handled_total", grpc_method="Score", grpc_code="OK") == 2
