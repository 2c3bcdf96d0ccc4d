"""What no request of the Open Inference Protocol may hold: each is refused, naming the tensor."""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Any

import grpc
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import ArithmeticEngine
from infer_requests import add_input, answers_to, infer, make_stub, packed, tensors_of
from refusals import refusal
from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.inference import read_inference
from serving import PENCIL_TEXT, serving


def raw(contents: bytes, shape: list[int], datatype: str = "BYTES", name: str = "text_input") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(raw_input_contents=[contents])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


def beside(name: str, datatype: str, elements: list[Any], contents: bytes | None = None) -> pb.ModelInferRequest:
    """A good text, and another tensor; ``contents`` replace the raw ones of the latter."""
    request = infer("c d")
    add_input(request, name, datatype, elements)
    if contents is not None:
        request.raw_input_contents[1] = contents
    return request


def crowd(count: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for place in range(count):
        add_input(request, f"t{place}", "BYTES", ["x"])
    return request


def changed(change: Callable[[pb.ModelInferRequest], object], *texts: str, raw: bool = True) -> pb.ModelInferRequest:
    request = infer(*(texts or ("c d",)), raw=raw)
    change(request)
    return request


def shared_memory(request: pb.ModelInferRequest) -> None:
    request.ClearField("raw_input_contents")
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


BAD: dict[str, tuple[pb.ModelInferRequest, str, str]] = {
    "no tensors": (pb.ModelInferRequest(), "inputs", "0 tensors are outside 1..16"),
    "too many tensors": (crowd(17), "inputs", "17 tensors are outside 1..16"),
    "no text": (changed(lambda request: setattr(request.inputs[0], "name", "sampling_parameters")), "text_input",
                "it is missing, and no tensor of BYTES could be it"),
    "a tensor nobody knows": (beside("image", "BYTES", ["x"]), "image",
                              "no such tensor; there are text_input"),
    "a tensor without a name": (infer("c", name=""), "inputs[0]", "it has no name"),
    "a name twice": (beside("text_input", "BYTES", ["x"]), "text_input",
                     "two tensors have this name"),
    "a name of many lines": (beside("a\nb" * 80, "BOOL", [True]),
                             "'" + "a\\nb" * 21 + "a'", "no such tensor"),
    "another datatype": (raw(struct.pack("<f", 1.0), [1], "FP32"), "text_input", "its datatype is FP32, not BYTES"),
    "a switch of bytes": (beside("stream", "BYTES", ["1"]), "stream",
                          "its datatype is BYTES, not BOOL"),
    "a switch of two": (beside("stream", "BOOL", [True, True]), "stream",
                        "2 elements are outside 1..1"),
    "a switch that is 2": (beside("stream", "BOOL", [True], b"\x02"), "stream", "neither 0 nor 1"),
    "a switch without bytes": (beside("stream", "BOOL", [True], b""), "stream",
                               "0 bytes of raw contents, and its shape says 1"),
    "no shape": (raw(packed(["c"]), []), "text_input", "its shape is [], not [n] or [n, 1]"),
    "a wide shape": (raw(packed(["c", "d"]), [1, 2]), "text_input", "its shape is [1, 2], not"),
    "a deep shape": (raw(packed(["c"]), [1, 1, 1]), "text_input", "its shape is [1, 1, 1], not"),
    "a very deep shape": (raw(packed(["c"]), [1] * 9999), "text_input", "its shape is [1, 1,"),
    "a negative shape": (raw(packed(["c"]), [-1]), "text_input", "-1 elements are outside 1..1024"),
    "no elements": (raw(b"", [0]), "text_input", "0 elements are outside 1..1024"),
    "too many elements": (infer(*["c"] * 1025), "text_input", "1025 elements are outside 1..1024"),
    "a shape beyond memory": (raw(b"", [2**62]), "text_input", "elements are outside 1..1024"),
    "raw contents that end early": (raw(packed(["c"]), [2]), "text_input", "end before element 1 of 2"),
    "half a length": (raw(b"\x01\x00", [1]), "text_input", "end before element 0 of 1"),
    "a length over the rest": (raw(struct.pack("<I", 9) + b"c", [1]), "text_input[0]",
                               "its length is 9, and 1 bytes of raw contents are left"),
    "the longest length": (raw(b"\xff\xff\xff\xff", [1]), "text_input[0]", "its length is 4294967295"),
    "raw contents left": (raw(packed(["c", "d"]), [1]), "text_input", "5 bytes of raw contents are left behind 1"),
    "fewer raw contents than tensors": (changed(lambda request: request.inputs.add(name="stream", datatype="BOOL")),
                                        "raw_input_contents", "1 for 2 inputs"),
    "more raw contents than tensors": (changed(lambda request: request.raw_input_contents.append(b"")),
                                       "raw_input_contents", "2 for 1 inputs"),
    "raw and typed": (changed(lambda request: request.inputs[0].contents.bytes_contents.append(b"c")), "text_input",
                      "it has contents, and raw_input_contents are given"),
    "neither raw nor typed": (changed(lambda request: request.ClearField("raw_input_contents")), "text_input",
                              "0 elements in bytes_contents, and its shape says 1"),
    "typed as another type": (changed(lambda request: request.inputs[0].contents.int_contents.append(1), raw=False),
                              "text_input", "it has int_contents, and BYTES is in bytes_contents"),
    "more typed elements than the shape": (changed(
        lambda request: request.inputs[0].contents.bytes_contents.append(b"c"), raw=False), "text_input",
        "2 elements in bytes_contents, and its shape says 1"),
    "shared memory": (changed(shared_memory), "text_input", "shared_memory_region asks for what is not served"),
    "not UTF-8": (infer("c", b"a\xff"), "text_input[1]", "not UTF-8 at byte 1"),
    "not UTF-8, typed": (infer("c", b"a\xc3", raw=False), "text_input[1]", "not UTF-8 at byte 1"),
    "half a character": (infer(b"\xed\xa0\x80"), "text_input[0]", "not UTF-8 at byte 0"),
    "more bytes than a character needs": (infer(b"\xc0\xaf"), "text_input[0]", "not UTF-8 at byte 0"),
    "JSON that is not UTF-8": (beside("sampling_parameters", "BYTES", [b"\xff"]),
                               "sampling_parameters[0]", "not UTF-8 at byte 0"),
    "an empty text": (infer("c", ""), "text_input[1]", "empty"),
    "an empty text under another name": (infer("", name="input-0"), "input-0[0]", "empty"),
    "a text too long": (infer(" ".join("c" * 32)), "text_input[0]", "33 tokens"),
    "a text of too many bytes": (infer("a" * 65537), "text_input[0]", "65537 bytes are over the limit"),
    "an unknown output": (infer("c", outputs=["text_output", "logits"]), "outputs[1]", "logits is no tensor of an"),
    "an output twice": (infer("c", outputs=["score", "score"]), "outputs[1]", "score is asked for twice"),
    "too many outputs": (infer("c", outputs=["score"] * 17), "outputs", "17 tensors are over 16"),
    "a classification": (changed(lambda request: request.outputs.add(name="score").parameters["classification"].
                                 MergeFrom(pb.InferParameter(int64_param=3))), "score", "classification asks for"),
    "a long id": (infer("c", id="x" * 257), "id", "257 bytes are over 256"),
    "an unknown parameter": (infer("c", best_of=2), "parameters.best_of", "no such parameter"),
    "a wide beam": (infer("c", num_beams=33), "parameters.num_beams", "33 is outside 1..32"),
    "a language": (infer("c", source_language="en"), "parameters.source_language", "en"),
    "a stream": (infer("c", stream=True), "stream", "ModelStreamInfer streams"),
}


async def test_each_is_refused_by_name_and_whoever_runs_beside_it_is_unchanged() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        stub = make_stub(served.channel)
        engine.hold()
        beside = asyncio.ensure_future(stub.ModelInfer(infer("c d")))
        await served.until(lambda: served.inside == 1)
        for case, (request, field, said) in BAD.items():
            error = await refusal(stub.ModelInfer(request))
            assert (case, error.code) == (case, grpc.StatusCode.INVALID_ARGUMENT)
            assert (case, error.field[:80]) == (case, field[:80])
            assert said in error.message, case
            assert len(error.message) < 1000, case
            if case not in ("a stream", "a long id"):
                message = (await answers_to(stub, request))[0]
                assert message.error_message == f"INVALID_ARGUMENT: {error.message}", case
        engine.allow()
        assert tensors_of(await beside)["text_output"] == [PENCIL_TEXT]
        assert served.inside == 0
        assert engine.misuses == []


async def test_a_model_without_a_tokenizer_says_where_ids_go() -> None:
    async with serving(tokenizer=False) as served:
        error = await refusal(make_stub(served.channel).ModelInfer(infer("c d")))
    assert error.message == "text_input: this model has no tokenizer; Seq2SeqService takes tokens and ids"


@given(st.binary(max_size=40), st.lists(st.integers(-2, 5), max_size=3))
def test_any_raw_bytes_are_read_whole_or_refused(contents: bytes, shape: list[int]) -> None:
    try:
        read = read_inference(raw(contents, shape), 4)
    except InvalidRequest:
        return
    assert packed(read.texts) == contents
    assert len(read.texts) == shape[0]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.booleans())
def test_any_texts_come_through(texts: list[str], is_raw: bool) -> None:
    assert read_inference(infer(*texts, raw=is_raw), 4).texts == texts


@given(st.binary(max_size=200))
def test_any_message_is_read_or_refused(contents: bytes) -> None:
    request = pb.ModelInferRequest()
    try:
        request.MergeFromString(contents)
    except Exception:  # noqa: BLE001 - what protobuf refuses never gets here
        return
    with contextlib.suppress(InvalidRequest):
        read_inference(request, 4)
