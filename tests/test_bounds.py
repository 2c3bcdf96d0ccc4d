"""Every list, text and number of bytes that a request may hold has a bound, and each bound is tried.

The walk is over the descriptors of what a server registers, so a field that somebody adds, or a whole service, is
missed here until it has an entry.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default

import open_inference_bounds
from infer_requests import answers_to, make_stub
from refusals import refusal
from registered import registered_methods
from seqserve.v1 import seq2seq_pb2 as pb
from serving import ask, ids, serving

# Their messages are gRPC's own and hold one name each, which is looked up; the message limit is their bound.
NOT_OURS = ("grpc.health.", "grpc.reflection.")
V1, OPEN_INFERENCE = "seqserve.v1.", "inference."
WORD = "x" * 5000


def generate(**options: Any) -> pb.GenerateRequest:
    return ask("c d", **options)


def target(*token_ids: int) -> pb.Target:
    return pb.Target(token_ids=pb.TokenIds(ids=token_ids))


def pair(target: pb.Target, **options: Any) -> pb.ScoreRequest:
    pairs = [pb.ScorePair(source=pb.Input(text="c d"), target=target)]
    return pb.ScoreRequest(pairs=pairs, options=pb.ScoreOptions(**options))


MANY = [3] * 5000
# Field: what goes beyond its bound, and what the refusal names.
BOUNDS: dict[str, list[tuple[Any, str]]] = {
    "GenerateRequest.model": [(ask("c", model=WORD), "NOT_FOUND")],
    "GenerateRequest.inputs": [(ask(*["c"] * 1025), "inputs")],
    "GenerateStreamRequest.model": [(pb.GenerateStreamRequest(model=WORD), "NOT_FOUND")],
    "Input.text": [(ask("c" * 65_537), "inputs[0].text")],
    "Tokens.tokens": [
        (ask(pb.Input(tokens=pb.Tokens(tokens=["c"] * 5000))), "inputs[0].tokens"),
        (ask(pb.Input(tokens=pb.Tokens(tokens=[WORD]))), "inputs[0].tokens[0]"),
        (generate(prefix=pb.Target(tokens=pb.Tokens(tokens=["c"] * 65))), "options.prefix.tokens"),
    ],
    "TokenIds.ids": [
        (ask(ids(*MANY)), "inputs[0].token_ids"),
        (generate(prefix=target(*MANY)), "options.prefix.token_ids"),
        (pair(target(*MANY)), "pairs[0].target.token_ids"),
        (pb.DetokenizeRequest(token_ids=[pb.TokenIds(ids=MANY)]), "token_ids[0]"),
        (generate(suppress_tokens=[pb.TokenIds(ids=MANY)]), "options.suppress_tokens"),
    ],
    "Target.text": [
        (generate(prefix=pb.Target(text="c" * 65_537)), "options.prefix.text"),
        (pair(pb.Target(text="c" * 65_537)), "pairs[0].target.text"),
        (generate(banned_phrases=[pb.Target(text="c" * 65_537)]), "options.banned_phrases[0].text"),
    ],
    "GenerationOptions.source_language": [(generate(source_language=WORD), "options.source_language")],
    "GenerationOptions.target_language": [(generate(target_language=WORD), "options.target_language")],
    "GenerationOptions.suppress_tokens": [
        (generate(suppress_tokens=[pb.TokenIds()] * 200_000), "options.suppress_tokens"),
        (generate(suppress_tokens=[pb.TokenIds(ids=[3])] * 4097), "options.suppress_tokens"),
    ],
    "GenerationOptions.stop": [
        (generate(stop=["x"] * 17), "options.stop"), (generate(stop=["x" * 257]), "options.stop[0]"),
    ],
    "GenerationOptions.required_phrases": [
        (generate(required_phrases=[pb.Target(text="c")] * 50_000), "options.required_phrases"),
        (generate(beam_size=4, required_phrases=[target(3)] * 65), "options.required_phrases"),
    ],
    "GenerationOptions.banned_phrases": [
        (generate(banned_phrases=[pb.Target(text="c")] * 50_000), "options.banned_phrases"),
    ],
    "ScoreRequest.model": [(pb.ScoreRequest(model=WORD), "NOT_FOUND")],
    "ScoreRequest.pairs": [(pb.ScoreRequest(pairs=[pb.ScorePair()] * 1025), "pairs")],
    "ScoreOptions.source_language": [
        (pair(target(3), source_language=WORD), "options.source_language")
    ],
    "ScoreOptions.target_language": [
        (pair(target(3), target_language=WORD), "options.target_language")
    ],
    "TokenizeRequest.model": [(pb.TokenizeRequest(model=WORD), "NOT_FOUND")],
    "TokenizeRequest.texts": [
        (pb.TokenizeRequest(texts=["c"] * 1025), "texts"), (pb.TokenizeRequest(texts=["c" * 65_537]), "texts[0]"),
    ],
    "TokenizeRequest.source_language": [
        (pb.TokenizeRequest(texts=["c"], source_language=WORD), "source_language")
    ],
    "DetokenizeRequest.model": [(pb.DetokenizeRequest(model=WORD), "NOT_FOUND")],
    "DetokenizeRequest.token_ids": [(pb.DetokenizeRequest(token_ids=[pb.TokenIds()] * 1025), "token_ids")],
}
EVERY = {
    **{V1 + field: tried for field, tried in BOUNDS.items()},
    **{OPEN_INFERENCE + field: tried for field, tried in open_inference_bounds.BOUNDS.items()},
}


def unbounded(kind: Any, seen: set[str] | None = None) -> Iterator[str]:
    """Fields of a message, and of those in it, whose size the wire leaves open."""
    seen = set() if seen is None else seen
    if kind.full_name in seen:
        return
    seen.add(kind.full_name)
    for field in kind.fields:
        if field.is_repeated or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            yield field.full_name
        if field.message_type is not None:
            yield from unbounded(field.message_type, seen)


def request_kinds(methods: dict[str, Any]) -> list[Descriptor]:
    """What registered methods take, gRPC's own services left out."""
    found = []
    for method in methods:
        service, _, name = method.lstrip("/").partition("/")
        if not service.startswith(NOT_OURS):
            found.append(Default().FindServiceByName(service).FindMethodByName(name).input_type)
    return found


async def test_every_field_without_a_size_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = registered_methods(monkeypatch)
    async with serving():
        pass
    fields = {name for kind in request_kinds(methods) for name in unbounded(kind)}
    assert fields == set(EVERY)


def test_a_field_without_an_entry_is_found() -> None:
    assert V1 + "GenerationResult.hypotheses" in set(unbounded(pb.GenerateResponse.DESCRIPTOR)) - set(EVERY)


def held(message: Any) -> Iterator[str]:
    """Fields that a message holds, and those in it."""
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type is None:
            continue
        inner = value if field.is_repeated else [value]
        if field.message_type.GetOptions().map_entry:
            yield f"{field.message_type.full_name}.key"
            inner = value.values()
        for each in inner:
            yield from held(each)


@pytest.mark.parametrize("field", EVERY)
def test_what_is_tried_of_a_field_holds_it(field: str) -> None:
    assert EVERY[field]
    assert all(field in held(request) for request, _ in EVERY[field])


@pytest.mark.parametrize("field", BOUNDS)
async def test_what_is_beyond_a_bound_is_refused_by_name(field: str) -> None:
    async with serving(max_message_bytes=16 * 2**20) as served:
        for request, named in BOUNDS[field]:
            method = type(request).__name__.removesuffix("Request")
            call = getattr(served.stub, method)(request)
            error = await refusal(call.read() if method == "GenerateStream" else call)
            if named == "NOT_FOUND":
                assert error.code is grpc.StatusCode.NOT_FOUND
            else:
                assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, named)
            assert len(error.message) < 300  # nothing of the kind comes back either
        assert served.inside == 0
        assert len(served.engine.encoded) == 1  # the warm-up: nothing was started


@pytest.mark.parametrize("field", open_inference_bounds.BOUNDS)
async def test_what_is_beyond_a_bound_of_open_inference_is_refused_by_name(field: str) -> None:
    async with serving(max_message_bytes=16 * 2**20) as served:
        stub = make_stub(served.channel)
        for request, named in open_inference_bounds.BOUNDS[field]:
            method = type(request).__name__.removesuffix("Request")
            error = await refusal(getattr(stub, method)(request))
            if named == "NOT_FOUND":
                assert error.code is grpc.StatusCode.NOT_FOUND
            else:
                assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, named)
            assert len(error.message) < 1000  # the longest lists the names of all parameters
            if method == "ModelInfer":
                (message,) = await answers_to(stub, request)
                assert message.error_message == f"{error.code.name}: {error.message}"
        assert served.inside == 0
        assert len(served.engine.encoded) == 1
