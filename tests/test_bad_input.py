"""What no request may hold: each is refused by name and limit, and whoever runs beside it is unchanged."""

import asyncio

import grpc
import pytest

from arithmetic_engine import ArithmeticEngine
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from serving import PENCIL_TEXT, ask, ids, serving

LONG = " ".join(["a"] * 32)  # 33 tokens with the end token
BAD: dict[str, tuple[pb.GenerateRequest, str, str, str]] = {
    "no inputs": (ask(), "INVALID_FIELD", "inputs", "0 inputs are outside 1..1024"),
    "an input without content": (ask("c", pb.Input()), "INVALID_FIELD", "inputs[1]", "one of text, tokens"),
    "an empty text": (ask(""), "INVALID_FIELD", "inputs[0].text", "empty"),
    "whitespace": (ask("c", " \t\n\u3000"), "INVALID_FIELD", "inputs[1].text", "whitespace"),
    "a text too long": (ask(LONG), "INPUT_TOO_LONG", "inputs[0].text", "limit of 32"),
    "a text of too many bytes": (ask("a" * 65537), "INVALID_FIELD", "inputs[0].text", "65537 bytes are over the limit"),
    "no ids": (ask(ids()), "INVALID_FIELD", "inputs[0].token_ids", "empty"),
    "a negative id": (ask(ids(3, -1)), "INVALID_FIELD", "inputs[0].token_ids[1]", "-1 is outside 0..28"),
    "an id beyond the vocabulary": (ask(ids(29)), "INVALID_FIELD", "inputs[0].token_ids[0]", "29 is outside 0..28"),
    "the largest id": (ask(ids(2**31 - 1)), "INVALID_FIELD", "inputs[0].token_ids[0]", "is outside 0..28"),
    "too many ids": (ask(ids(*[3] * 100_000)), "INPUT_TOO_LONG", "inputs[0].token_ids", "limit of 32"),
    "no tokens": (ask(pb.Input(tokens=pb.Tokens())), "INVALID_FIELD", "inputs[0].tokens", "empty"),
    "an unknown token": (ask(pb.Input(tokens=pb.Tokens(tokens=["c", "cc"]))), "INVALID_FIELD", "inputs[0].tokens[1]",
                         "not in the vocabulary"),
    "too many tokens": (ask(pb.Input(tokens=pb.Tokens(tokens=["c"] * 33))), "INPUT_TOO_LONG", "inputs[0].tokens",
                        "limit of 32"),
    "zero new tokens": (ask("c", max_new_tokens=0), "INVALID_FIELD", "options.max_new_tokens", "0 is outside 1..64"),
    "negative new tokens": (ask("c", max_new_tokens=-5), "INVALID_FIELD", "options.max_new_tokens", "outside 1..64"),
    "too many new tokens": (ask("c", max_new_tokens=65), "INVALID_FIELD", "options.max_new_tokens", "outside 1..64"),
    "a negative minimum": (ask("c", min_new_tokens=-1), "INVALID_FIELD", "options.min_new_tokens", "outside 0..64"),
    "a minimum over the maximum": (ask("c", max_new_tokens=3, min_new_tokens=4), "INVALID_FIELD",
                                   "options.min_new_tokens", "4 is over options.max_new_tokens 3"),
    "no beam": (ask("c", beam_size=0), "INVALID_FIELD", "options.beam_size", "0 is outside 1..32"),
    "too wide a beam": (ask("c", beam_size=33), "INVALID_FIELD", "options.beam_size", "33 is outside 1..32"),
    "more hypotheses than the beam": (ask("c", beam_size=2, num_hypotheses=3), "INVALID_FIELD",
                                      "options.num_hypotheses", "3 is over options.beam_size 2"),
    "more hypotheses than the default beam": (ask("c", num_hypotheses=2), "INVALID_FIELD", "options.num_hypotheses",
                                              "2 is over options.beam_size 1 (the model's default)"),
    "a length penalty out of bounds": (ask("c", length_penalty=-11), "INVALID_FIELD", "options.length_penalty",
                                       "-11.0 is outside -10..10"),
    "a length penalty that is none": (ask("c", length_penalty=float("nan")), "INVALID_FIELD",
                                      "options.length_penalty", "nan is outside -10..10"),
    "no patience": (ask("c", patience=0), "INVALID_FIELD", "options.patience", "0.0 is not over 0 and at most 10"),
    "patience with a rule that has none": (ask("c", patience=2, stopping=pb.STOPPING_FULL), "INVALID_FIELD",
                                           "options.patience", "2 means nothing to options.stopping full"),
    "an unknown stopping rule": (
        pb.GenerateRequest(inputs=ask("c").inputs, options=pb.GenerationOptions.FromString(bytes([72, 77]))),
        "INVALID_FIELD", "options.stopping", "77 is none of heuristic (1)",
    ),
    "100 000 one-character inputs": (ask(*["a"] * 100_000), "INVALID_FIELD", "inputs", "100000 inputs are outside"),
}


async def test_bad_input_is_refused_by_name_and_the_request_beside_it_is_unchanged() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        beside = asyncio.ensure_future(served.stub.Generate(ask("c d")))
        await served.until_stepping()
        for name, (request, reason, field, said) in BAD.items():
            error = await refusal(served.stub.Generate(request))
            assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field), name
            assert said in error.message, name
            assert error.message.startswith(field), name
            assert error.details["ErrorInfo"].metadata["field"] == field, name
            if len(request.inputs) == 1:
                single = pb.GenerateStreamRequest(input=request.inputs[0], options=request.options)
                streamed = await refusal(drained(served.stub.GenerateStream(single)))
                assert (streamed.code, streamed.reason) == (error.code, error.reason), name
                assert streamed.field == field.replace("inputs[0]", "input"), name
            assert served.inside == 1, name
        engine.allow()
        response = await beside
    assert response.results[0].hypotheses[0].text == PENCIL_TEXT
    assert engine.encoded[1:] == [[[5, 6, 1]]]  # after the warm-up: nothing of what was refused


async def test_the_longest_allowed_input_is_answered() -> None:
    async with serving() as served:
        response = await served.stub.Generate(ask(" ".join(["a"] * 31), max_new_tokens=64))
    assert response.results[0].input_token_count == 32


async def test_a_length_that_is_refused_is_told_in_numbers() -> None:
    async with serving() as served:
        error = await refusal(served.stub.Generate(ask(LONG)))
    assert dict(error.details["ErrorInfo"].metadata) == {
        "field": "inputs[0].text", "inputTokenCount": "33", "maxInputTokens": "32",
    }


async def test_one_bad_input_refuses_the_whole_call_and_leaves_nothing_behind() -> None:
    async with serving() as served:
        await refusal(served.stub.Generate(ask("c d", "c d", "")))
        assert served.inside == 0
    assert len(served.engine.encoded) == 1  # the warm-up


async def test_a_message_over_the_size_limit_is_refused_and_the_server_goes_on() -> None:
    async with serving(max_message_bytes=1 << 16) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Generate(ask("a" * (1 << 17)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
