"""Calls that are refused before their message is read: for want of room, and for want of a token."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, status_pb2

from arithmetic_engine import ArithmeticEngine
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.errors import Draining, InvalidRequest, QueueFull, ServerError
from seqserve_server.service_errors import serialized_status, status_of
from serving import Served, ask, ask_stream, ids, serving
from test_metrics_scrape import scrape

METHOD = "/seqserve.v1.Seq2SeqService"
UNREADABLE = b"\xff" * 8


def raw(served: Served, name: str, message: bytes, **arguments: Any) -> Any:
    """A unary call of a method with any bytes."""
    call: Any = served.channel.unary_unary(f"{METHOD}/{name}")
    return call(message, **arguments)


def pair() -> pb.ScoreRequest:
    """A pair to score."""
    return pb.ScoreRequest(pairs=[pb.ScorePair(source=ids(5), target=pb.Target(token_ids=pb.TokenIds(ids=[5])))])


@contextlib.asynccontextmanager
async def full_server(**config: Any) -> AsyncIterator[Served]:
    """One without room; what fills it is answered at the end."""
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1, **config) as served:
        engine.hold()
        inside = [asyncio.ensure_future(served.stub.Generate(ask("c d"))) for _ in range(2)]
        await served.until(lambda: served.inside == 2)
        yield served
        engine.allow()
        await asyncio.gather(*inside)


FULL = ("requests", 1, 0, 128, 5.0)


@pytest.mark.parametrize("error", [
    QueueFull(*FULL), QueueFull("tokens", *FULL[1:]), QueueFull("requests", 2, *FULL[2:]),
    QueueFull("requests", 1, 1, *FULL[3:]), QueueFull(*FULL[:3], 64, 5.0), QueueFull(*FULL[:4], 0.25),
    InvalidRequest("inputs", "none"), Draining(),
])
@pytest.mark.parametrize("overloaded", [code_pb2.RESOURCE_EXHAUSTED, code_pb2.UNAVAILABLE])
def test_a_status_in_bytes_is_the_status_whichever_was_made_before(error: ServerError, overloaded: int) -> None:
    serialized_status(QueueFull(*FULL), "before", overloaded=code_pb2.RESOURCE_EXHAUSTED)
    code, serialized = serialized_status(error, "this-one", overloaded=overloaded)
    expected = status_of(error, "this-one", overloaded=overloaded)
    assert status_pb2.Status.FromString(serialized) == expected
    assert code == expected.code


async def test_without_room_no_message_is_read_whatever_is_in_it() -> None:
    async with full_server() as served:
        refused = [
            await refusal(raw(served, "Generate", UNREADABLE)),
            await refusal(raw(served, "Score", UNREADABLE)),
            await refusal(drained(served.stub.GenerateStream(ask_stream("c d")))),
            await refusal(served.stub.Score(pair())),
        ]
        page = await scrape(served)
    async with serving() as served:
        heard = await refusal(raw(served, "Generate", UNREADABLE))
    assert {(each.code, each.reason) for each in refused} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")}
    assert all(each.trailing["grpc-retry-pushback-ms"] == "100" for each in refused)
    assert heard.code is grpc.StatusCode.INVALID_ARGUMENT
    for kind, name, count in (("unary", "Generate", 1), ("unary", "Score", 2), ("server_stream", "GenerateStream", 1)):
        labels = {"grpc_method": name, "grpc_type": kind}
        assert page.value("grpc_server_handled_total", grpc_code="ResourceExhausted", **labels) == count
    assert page.value("seqserve_requests_rejected_total", reason="QUEUE_FULL") == 4


async def test_a_large_message_is_refused_and_the_connection_goes_on() -> None:
    async with full_server(max_message_bytes=1 << 22) as served:
        large = ask("c " * (1 << 20))
        for _ in range(20):  # more than the connection's window holds at once: what is not read is given back
            assert (await refusal(served.stub.Generate(large, timeout=30))).reason == "QUEUE_FULL"


async def test_methods_that_bring_no_requests_are_answered_all_the_same() -> None:
    async with full_server() as served:
        assert (await served.stub.Tokenize(pb.TokenizeRequest(texts=["c d"]))).results
        assert (await served.stub.GetModelInfo(pb.GetModelInfoRequest())).models


async def test_a_tenant_that_holds_less_than_its_share_is_let_in_and_a_wrong_name_is_told() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=15, max_rows=1) as served:
        engine.hold()
        flood = [
            asyncio.ensure_future(served.stub.Generate(ask("c d"), metadata=[("x-tenant", "flood")])) for _ in range(16)
        ]
        await served.until(lambda: served.inside == 16)
        assert (await refusal(raw(served, "Generate", b"", metadata=[("x-tenant", "flood")]))).reason == "QUEUE_FULL"
        wrong = await refusal(served.stub.Generate(ask("c d"), metadata=[("x-tenant", "a b")]))
        light = asyncio.ensure_future(served.stub.Generate(ask("c d"), metadata=[("x-tenant", "light")]))
        await served.until(lambda: served.inside == 17)
        engine.allow()
        await asyncio.gather(light, *flood)
    assert (wrong.code, wrong.field) == (grpc.StatusCode.INVALID_ARGUMENT, "metadata.x-tenant")


@pytest.mark.parametrize("full", [False, True])
async def test_who_has_no_token_hears_that_and_not_whether_there_is_room(full: bool, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:" + "a" * 32 + "\n")
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1, auth_tokens_file=tokens) as served:
        engine.hold()
        known = [("authorization", "Bearer " + "a" * 32)]
        inside = [asyncio.ensure_future(served.stub.Generate(ask("c d"), metadata=known)) for _ in range(2 * full)]
        await served.until(lambda: served.inside == 2 * full)
        refused = await refusal(raw(served, "Generate", UNREADABLE))
        engine.allow()
        await asyncio.gather(*inside)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
