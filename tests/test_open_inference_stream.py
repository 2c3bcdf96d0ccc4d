"""Many requests on one stream of the Open Inference Protocol: parts, ends, errors, and callers that go away."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from arithmetic_engine import ArithmeticEngine
from infer_requests import answers_to, infer, is_final, make_stub, sending, tensors_of
from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import multiplex
from seqserve_server.open_inference import open_inference_pb2 as pb
from serving import PENCIL_TEXT, Served, ask, serving
from test_cancellation import answered_alone

ENDLESS_TEXT = "x"  # the id 26, with which the pencil never comes to an end


def whole(messages: list[pb.ModelStreamInferResponse], request_id: str = "") -> dict[str, Any]:
    """What the parts of one request add up to, after a look at what holds for each of them."""
    own = [message for message in messages if message.infer_response.id == request_id]
    assert not any(message.error_message for message in own)
    assert [is_final(message) for message in own] == [False] * (len(own) - 1) + [True]
    parts = [tensors_of(message.infer_response) for message in own]
    assert [part["finish_reason"] for part in parts[:-1]] == [[""]] * (len(parts) - 1)
    assert len({tuple(part["num_input_tokens"]) for part in parts}) == 1
    return {
        "text": "".join(part["text_output"][0] for part in parts), "parts": len(parts),
        "reason": parts[-1]["finish_reason"][0], "tokens": sum(part["num_output_tokens"][0] for part in parts),
    }


@pytest.mark.parametrize("raw", [True, False])
async def test_parts_add_up_to_the_whole_answer(raw: bool) -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        call = make_stub(served.channel).ModelStreamInfer(sending(infer("c d", id="7", raw=raw)))
        engine.allow(3)
        parts = aiter(call)
        messages = [await anext(parts)]  # while the answer is far from its end
        engine.allow()
        messages += [message async for message in parts]
    found = whole(messages, "7")
    assert found.pop("parts") >= 2
    assert found == {"text": PENCIL_TEXT, "reason": "eos", "tokens": 16}
    assert all(bool(message.infer_response.raw_output_contents) is raw for message in messages)


async def test_parts_say_what_the_native_stream_says_in_beams_draws_and_behind_a_prefix() -> None:
    asked: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({"num_beams": 4}, {"beam_size": 4}),
        ({"temperature": 0.9, "seed": 7}, {"temperature": 0.9, "seed": 7}),
        ({"prefix": "b a", "max_tokens": 2}, {"prefix": {"text": "b a"}, "max_new_tokens": 2}),
        ({"stop": "u o", "beam_size": 1}, {"stop": ["u o"], "beam_size": 1}),
    )
    async with serving() as served:
        native = [(await served.stub.Generate(ask("c d", **theirs))).results[0] for _, theirs in asked]
        messages = await answers_to(
            make_stub(served.channel), *(infer("c d", id=str(place), **ours) for place, (ours, _) in enumerate(asked))
        )
    for place, result in enumerate(native):
        found = whole(messages, str(place))
        assert found["text"] == result.hypotheses[0].text
        assert found["tokens"] == result.output_token_count


async def test_requests_of_one_stream_run_side_by_side_and_are_matched_by_id() -> None:
    texts = {str(place): text for place, text in enumerate(["c d", "a", "q", "x y z", "m n", "e f g"] * 5)}
    async with serving() as served:
        native = await served.stub.Generate(ask(*texts.values()))
        messages = await answers_to(make_stub(served.channel), *(infer(text, id=key) for key, text in texts.items()))
        assert max(served.engine.steps) > 2
        assert served.inside == 0
    expected = [result.hypotheses[0].text for result in native.results]
    assert [whole(messages, key)["text"] for key in texts] == expected


async def test_without_parts_a_request_gets_one_answer_and_so_do_several_texts() -> None:
    async with serving() as served:
        messages = await answers_to(
            make_stub(served.channel), infer("c d", id="one", stream=False), infer("c d", "a", id="two"),
            infer("c d", id="more", stream=False, num_beams=2, num_hypotheses=2, outputs=["score"]),
        )
    found = {message.infer_response.id: tensors_of(message.infer_response) for message in messages}
    assert len(messages) == 3
    assert all(map(is_final, messages))
    assert found["one"]["text_output"] == [PENCIL_TEXT]
    assert len(found["two"]["text_output"]) == len(found["more"]["score"]) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_who_asks_for_it_gets_an_empty_answer_at_the_end(stream: bool) -> None:
    async with serving() as served:
        messages = await answers_to(
            make_stub(served.channel), infer("c d", id="7", stream=stream, triton_enable_empty_final_response=True)
        )
    *parts, last = messages
    assert (is_final(last), last.infer_response.id, list(last.infer_response.outputs)) == (True, "7", [])
    assert not any(map(is_final, parts))
    texts = [tensors_of(part.infer_response)["text_output"][0] for part in parts]
    assert "".join(texts) == PENCIL_TEXT


async def test_an_error_ends_its_request_and_not_the_stream() -> None:
    engine = ArithmeticEngine()
    engine.nan = 3  # the id of "a"
    bad = {
        "model": infer("c", id="model", model="other"), "text": infer("", id="text"),
        "option": infer("c", id="option", num_beams=99), "engine": infer("a", id="engine"),
        "several": infer("c", "d", id="several", stream=True), "bytes": infer(b"\xff", id="bytes"),
        "late": infer("c", id="late", outputs=["score"]),
        "beams": infer("c", id="beams", num_beams=2, n=2, stream=True),
        "coverage": infer("c", id="coverage", coverage_penalty=0.5, num_beams=2),
    }
    async with serving(engine) as served:
        messages = await answers_to(make_stub(served.channel), *bad.values(), infer("c d", id="good"))
        assert served.inside == 0
    errors = {each.infer_response.id: each for each in messages if each.error_message}
    assert {key: each.error_message.split(":")[0] for key, each in errors.items()} == {
        **dict.fromkeys(bad, "INVALID_ARGUMENT"), "model": "NOT_FOUND", "engine": "INTERNAL",
    }
    assert all(is_final(each) and not each.infer_response.outputs for each in errors.values())
    assert errors["option"].error_message == "INVALID_ARGUMENT: parameters.num_beams: 99 is outside 1..32"
    assert errors["text"].error_message.startswith("INVALID_ARGUMENT: text_input[0]: empty")
    assert errors["bytes"].error_message == "INVALID_ARGUMENT: text_input[0]: not UTF-8 at byte 0"
    assert whole(messages, "good")["text"] == PENCIL_TEXT


async def test_an_exception_nobody_foresaw_tells_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("/secret/path")

    async with serving() as served:
        monkeypatch.setattr("seqserve_server.open_inference.service.write_part", broken)
        messages = await answers_to(make_stub(served.channel), infer("c d", id="7"), infer("c d", id="8", stream=False))
        await served.until(lambda: served.inside == 0)
    told = {message.infer_response.id: message.error_message for message in messages}
    assert told == {"7": "INTERNAL: internal error", "8": ""}
    assert "/secret/path" in caplog.text


async def test_a_full_queue_is_unavailable_here_in_calls_and_in_streams() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1) as served:
        stub = make_stub(served.channel)
        engine.hold()
        inside = asyncio.ensure_future(stub.ModelInfer(infer("c d", "c d")))
        await served.until(lambda: served.inside == 2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(infer("c d"))
        (message,) = await answers_to(stub, infer("c d"))
        with pytest.raises(grpc.aio.AioRpcError) as native:
            await served.stub.Generate(ask("c d"))
        engine.allow()
        await inside
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "100"
    assert message.error_message.startswith("UNAVAILABLE: 1 requests do not fit")
    assert native.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_timeout_of_a_request_is_its_deadline_in_microseconds(streamed: bool) -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        stub = make_stub(served.channel)
        engine.hold()
        if streamed:
            late: Any = asyncio.ensure_future(answers_to(stub, infer(ENDLESS_TEXT, id="late", timeout=200_000)))
        else:
            late = asyncio.ensure_future(stub.ModelInfer(infer(ENDLESS_TEXT, timeout=200_000)))
        await served.until_stepping()
        await asyncio.sleep(0.25)
        engine.allow()
        if streamed:
            (message,) = [each for each in await late if each.error_message]
            assert message.error_message.startswith("DEADLINE_EXCEEDED: ")
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await late
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert whole(await answers_to(stub, infer("c d", timeout=0)))["text"] == PENCIL_TEXT


@pytest.mark.parametrize("way", ["cancel", "deadline", "break"])
async def test_a_stream_that_goes_away_takes_its_requests_with_it(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        text = "c d" if way == "break" else ENDLESS_TEXT
        requests = [infer(text, id=str(place), stream=bool(place % 2)) for place in range(6)]
        call = make_stub(served.channel).ModelStreamInfer(
            _never_ending(requests), timeout=0.3 if way == "deadline" else None
        )
        await served.until(lambda: served.inside == 6)
        await served.until_stepping()  # else it might take requests and cancellations in one look
        if way == "break":
            engine.stepping.clear()
            engine.allow(4)
            assert (await call.read()).infer_response.outputs
            await served.until_stepping()  # in the fifth step: what is cancelled from here on waits to be seen
        if way != "deadline":
            call.cancel()
        assert await call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
        await served.until_abandoned(6)
        engine.allow()
        await answered_alone(served)
    assert caplog.text == ""


class Gone:
    """The call of a caller that has gone, before the call is cancelled: nothing can be written any more."""

    async def write(self, message: pb.ModelStreamInferResponse) -> None:
        raise grpc.aio.InternalError(message)


@pytest.mark.parametrize("error", [None, InvalidRequest("text_input", "wrong"), ValueError("unforeseen")])
async def test_what_cannot_be_sent_any_more_is_no_failure(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def respond(request: pb.ModelInferRequest, send: multiplex.Send) -> None:
        try:
            if error is not None:
                raise error
            await send(pb.ModelInferResponse())
        finally:
            ended.append(request.id)

    context: Any = Gone()
    await multiplex.Multiplex(context, respond, 14, 0).run(sending(infer("c", id="1"), infer("c", id="2")))
    assert ended == ["1", "2"]
    assert ("unforeseen" in caplog.text) is isinstance(error, ValueError)
    assert "InternalError" not in caplog.text


async def _never_ending(requests: list[pb.ModelInferRequest]) -> AsyncIterator[pb.ModelInferRequest]:
    for request in requests:
        yield request
    await asyncio.Event().wait()


async def test_no_more_requests_are_read_than_one_stream_may_have_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplex, "MAX_OPEN", 4)
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        stub = make_stub(served.channel)
        engine.hold()
        call = asyncio.ensure_future(answers_to(stub, *(infer("c d", id=str(place)) for place in range(40))))
        await served.until(lambda: served.inside == 4)
        other = await _opened_beside(served, stub)
        assert served.inside == 4 + 1
        engine.allow()
        messages = await call
        await other
    assert [whole(messages, str(place))["text"] for place in range(40)] == [PENCIL_TEXT] * 40


async def _opened_beside(served: Served, stub: Any) -> "asyncio.Future[Any]":
    """Another call, once it is inside: by then what the stream sent before has been read, if it was to be."""
    other: asyncio.Future[Any] = asyncio.ensure_future(stub.ModelInfer(infer("c d")))
    await served.until(lambda: served.inside >= 5)
    return other


async def test_a_stream_without_requests_ends_well() -> None:
    async with serving() as served:
        call = make_stub(served.channel).ModelStreamInfer(sending())
        assert [message async for message in call] == []
        assert await call.code() is grpc.StatusCode.OK
