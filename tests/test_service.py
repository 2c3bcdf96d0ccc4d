"""The whole server over real gRPC, with answers that a pencil can check."""

import asyncio

import grpc
import pytest

from arithmetic_engine import ArithmeticEngine, answer
from refusals import Refusal, drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from serving import PENCIL_IDS, PENCIL_TEXT, ask, ask_stream, ids, serving


async def test_a_text_is_answered_as_the_pencil_says() -> None:
    async with serving() as served:
        response = await served.stub.Generate(ask("c d"))
    (result,) = response.results
    (hypothesis,) = result.hypotheses
    assert hypothesis.text == PENCIL_TEXT
    assert hypothesis.tokens == PENCIL_TEXT.split()
    assert list(hypothesis.token_ids) == PENCIL_IDS
    assert hypothesis.score == sum(answer([5, 6, 1], 64)[1]) / 16
    assert result.finish_reason == pb.FINISH_REASON_EOS
    assert (result.input_token_count, result.output_token_count) == (3, 16)
    timing = result.timing
    assert 0 <= timing.queue_seconds <= timing.first_token_seconds <= timing.total_seconds
    parts = timing.queue_seconds + timing.encode_seconds + timing.decode_seconds
    assert parts == pytest.approx(timing.total_seconds)


async def test_a_batch_is_answered_in_order_and_each_input_as_if_alone() -> None:
    sources = [[number % 26 + 3, (7 * number) % 26 + 3][: 1 + number % 2] for number in range(100)]
    async with serving(max_rows=8) as served:
        response = await served.stub.Generate(ask(*(ids(*source) for source in sources), max_new_tokens=20))
    assert len(response.results) == 100
    for source, result in zip(sources, response.results, strict=True):
        tokens, log_probs, reason = answer([*source, 1], 20)
        assert list(result.hypotheses[0].token_ids) == tokens
        assert result.hypotheses[0].score == sum(log_probs) / len(log_probs)
        assert pb.FinishReason.Name(result.finish_reason) == f"FINISH_REASON_{reason.name}"


async def test_text_tokens_and_ids_are_three_ways_to_say_the_same() -> None:
    async with serving() as served:
        response = await served.stub.Generate(
            ask("c d", pb.Input(tokens=pb.Tokens(tokens=["c", "d"])), ids(5, 6), model="pencil")
        )
    assert [list(result.hypotheses[0].token_ids) for result in response.results] == [PENCIL_IDS] * 3


async def test_a_stream_joins_to_the_unary_answer() -> None:
    async with serving() as served:
        messages = await drained(served.stub.GenerateStream(ask_stream("c d")))
        unary = (await served.stub.Generate(ask("c d"))).results[0]
    assert "".join(message.text for message in messages) == PENCIL_TEXT
    assert [token_id for message in messages for token_id in message.token_ids] == PENCIL_IDS
    assert [message.HasField("result") for message in messages] == [False] * (len(messages) - 1) + [True]
    assert messages[-1].result.hypotheses == unary.hypotheses
    assert messages[-1].result.finish_reason == unary.finish_reason


async def test_a_stream_writes_each_token_while_the_next_is_held() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        call = served.stub.GenerateStream(ask_stream("c d"))
        for token_id in PENCIL_IDS[:4]:
            engine.allow(1)
            message = await call.read()
            assert list(message.token_ids) == [token_id]
        engine.allow()
        rest = []
        while (message := await call.read()) is not grpc.aio.EOF:
            rest += message.token_ids
    assert rest == PENCIL_IDS[4:]


async def test_a_model_without_a_tokenizer_answers_in_ids_and_refuses_text() -> None:
    async with serving(tokenizer=False) as served:
        response = await served.stub.Generate(ask(ids(5, 6)))
        messages = await drained(served.stub.GenerateStream(ask_stream(ids(5, 6))))
        info = await served.stub.GetModelInfo(pb.GetModelInfoRequest())
        error = await refusal(served.stub.Generate(ask("c d")))
    (hypothesis,) = response.results[0].hypotheses
    assert (list(hypothesis.token_ids), hypothesis.text, list(hypothesis.tokens)) == (PENCIL_IDS, "", [])
    assert [token_id for message in messages for token_id in message.token_ids] == PENCIL_IDS
    assert not any(message.text for message in messages)
    assert info.models[0].has_tokenizer is False
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[0].text")


async def test_model_info_tells_limits_and_defaults() -> None:
    async with serving(max_inputs=9, max_waiting=3000) as served:
        response = await served.stub.GetModelInfo(pb.GetModelInfoRequest())
    (model,) = response.models
    assert (model.name, model.version, model.family, model.precision) == ("pencil", "0123456789ab", "native", "fp32")
    assert model.limits == pb.ModelLimits(
        max_source_tokens=32, max_new_tokens=64, max_inputs=9, max_waiting_requests=3000, source_vocab_size=29,
        target_vocab_size=29, max_beam_size=32,
    )
    assert model.defaults == pb.GenerationOptions(
        max_new_tokens=64, min_new_tokens=0, beam_size=1, num_hypotheses=1, length_penalty=1.0,
        stopping=pb.STOPPING_HEURISTIC, repetition_penalty=1.0, no_repeat_ngram_size=0, sample=False,
        return_logprobs=False,
    )
    assert model.has_tokenizer
    assert response.server_version


async def test_an_unknown_model_is_not_found() -> None:
    async with serving() as served:
        error = await refusal(served.stub.Generate(ask("c d", model="other")))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert error.details["ResourceInfo"].resource_name == "other"
    assert "pencil" in error.message


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=3, max_rows=1) as served:
        engine.hold()
        inside = [asyncio.ensure_future(served.stub.Generate(ask("c d", "c d"))) for _ in range(2)]
        await served.until(lambda: served.inside == 4)
        error = await refusal(served.stub.Generate(ask("c d")))
        streamed = await refusal(drained(served.stub.GenerateStream(ask_stream("c d"))))
        engine.allow()
        responses = await asyncio.gather(*inside)
        again = await served.stub.Generate(ask("c d"))
        assert served.inside == 0
    for refused in (error, streamed):
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.details["RetryInfo"].retry_delay.ToMilliseconds() == 100
        assert refused.trailing["grpc-retry-pushback-ms"] == "100"
    texts = [result.hypotheses[0].text for response in (*responses, again) for result in response.results]
    assert texts == [PENCIL_TEXT] * 5


async def test_a_request_id_is_echoed_where_it_is_harmless_and_made_up_otherwise() -> None:
    async with serving() as served:
        for given, kept in (("trace-1.a_B", True), ("a b", False), ("x" * 65, False), (None, False)):
            metadata = [] if given is None else [("x-request-id", given)]
            call = served.stub.Generate(ask("c d"), metadata=metadata)
            await call
            echoed = dict(await call.trailing_metadata())["x-request-id"]
            assert (echoed == given) is kept
            assert echoed
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Generate(ask(""), metadata=metadata)
            error = Refusal(caught.value)
            assert (error.trailing["x-request-id"] == given) is kept
