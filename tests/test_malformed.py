"""Requests and connections that nobody sends by accident: refused cleanly, and the server goes on."""

import asyncio
import contextlib
import os
import socket
from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from malformed import PREFACE, SETTINGS, call_headers, connection, frame, request
from registered import call_of_any_kind, registered_methods
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.boundary import BoundaryInterceptor
from seqserve_server.service import Seq2SeqService
from serving import PENCIL_TEXT, Served, ask, serving

SERVICE = pb.DESCRIPTOR.services_by_name["Seq2SeqService"]
KINDS = {f"/{SERVICE.full_name}/{method.name}": method.input_type for method in SERVICE.methods}
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
           "UNIMPLEMENTED"}


class Aborted(grpc.aio.AbortError):
    """A handler ended its call."""


class Context:
    """What handlers use of a call's context; an abort is noted."""

    def __init__(self) -> None:
        self.ended = "OK"
        self.told = ""

    def time_remaining(self) -> float:
        return 60.0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        del metadata

    def code(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def send_initial_metadata(self, metadata: Any) -> None:
        del metadata

    async def write(self, message: Any) -> None:
        message.SerializeToString()

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        self.ended, self.told = code.name, details
        raise Aborted


class Details(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


async def outcome(handlers: dict[str, Any], method: str, payload: bytes) -> Context:
    """Parse and handle one request as the server does, without a wire."""
    context, handler = Context(), handlers[method]
    bounded: Any = await BoundaryInterceptor().intercept_service(_found(handler), Details(method))
    call = bounded.unary_stream if handler.response_streaming else bounded.unary_unary
    with contextlib.suppress(Aborted):
        await call(payload, context)
    return context


def _found(handler: Any) -> Any:
    async def continuation(details: object) -> Any:
        del details
        return handler

    return continuation


async def outcomes(handlers: dict[str, Any], seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        context = await outcome(handlers, *request(seed, KINDS))
        found[context.ended] += 1
        if context.ended not in ALLOWED:
            raise AssertionError(f"seed {seed} ended as {context.ended}: {context.told}")
    return found


async def test_no_request_made_of_damage_gets_anything_but_a_clean_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = registered_methods(monkeypatch)
    readable = 0
    for seed in range(5_000):
        method, payload = request(seed, KINDS)
        try:
            handlers_kind: Any = getattr(pb, KINDS[method].name)
            handlers_kind.FromString(payload)
            readable += 1
        except DecodeError:
            pass
    assert 2_000 < readable < 3_750  # both sides of the parser are met
    async with serving() as served:
        found = await outcomes(handlers, range(4_000))
        assert found["INVALID_ARGUMENT"] > 2_000
        assert found["OK"] > 100
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        assert served.inside == 0
        assert served.engine.misuses == []


async def test_a_handler_that_breaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = registered_methods(monkeypatch)

    async def breaking(self: Any, request: Any, context: Any) -> Any:
        return pb.TokenizeResponse(results=[{"tokens": [request.texts[1]]}])  # IndexError without a second text

    monkeypatch.setattr(Seq2SeqService, "Tokenize", breaking)
    async with serving():
        with pytest.raises(AssertionError, match="ended as INTERNAL: internal error"):
            await outcomes(handlers, range(400))


async def test_malformed_requests_on_the_wire_are_refused_and_leave_nothing_behind() -> None:
    async with serving() as served:
        found: Counter[str] = Counter()

        async def send(seed: int) -> None:
            method, payload = request(seed, KINDS)
            call = call_of_any_kind(served.channel, method, payload)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
            code = (await call.code()).name
            assert code in ALLOWED, f"seed {seed}: {code}"
            found[code] += 1

        for first in range(100_000, 100_600, 20):
            await asyncio.gather(*map(send, range(first, first + 20)))
        assert found.total() == 600
        assert found["INVALID_ARGUMENT"] > 300
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        assert served.inside == 0


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speak(port: int, data: bytes) -> None:
    """One connection of a hostile client, which does not wait for answers."""
    # An error is the server hanging up, as it should.
    with socket.create_connection(("127.0.0.1", port)) as link, contextlib.suppress(OSError):
        link.sendall(data)


def speak_all(port: int, seeds: range) -> None:
    """One such connection after the other."""
    for seed in seeds:
        speak(port, connection(seed))


async def settled(served: Served, descriptors: int) -> None:
    """Wait until connections that are gone are gone here too."""
    while len(os.listdir("/proc/self/fd")) > descriptors:
        await asyncio.sleep(0.05)


async def test_malformed_connections_change_nothing() -> None:
    async with serving() as served:
        assert (await served.stub.Generate(ask("c d"))).results
        port = served.server.port
        await asyncio.to_thread(speak_all, port, range(200))
        await asyncio.sleep(0.5)
        descriptors, memory = len(os.listdir("/proc/self/fd")), resident()
        await asyncio.to_thread(speak_all, port, range(200, 1_200))
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        await settled(served, descriptors)
        assert resident() - memory < 16 * 2**20
        assert served.inside == 0


async def test_streams_that_are_reset_at_once_start_no_more_than_they_may() -> None:
    path = f"/{SERVICE.full_name}/GetModelInfo"
    async with serving(max_streams=64) as served:
        flood = b"".join(
            frame(1, 4, stream, call_headers(path)) + frame(3, 0, stream, b"\0\0\0\x08") for stream in range(1, 4001, 2)
        )
        before = resident()
        for _ in range(10):
            await asyncio.to_thread(speak, served.server.port, PREFACE + frame(SETTINGS, 0, 0) + flood)
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        assert resident() - before < 20 * 2**20
        assert served.inside == 0
