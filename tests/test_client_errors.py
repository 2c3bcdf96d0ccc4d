"""Every way a call fails becomes one typed error; retries, deadlines and size limits do what they say."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from fake_server import FakeServer, aborting, refuse
from seqserve_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InputTooLong,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    SeqserveError,
    ServerError,
    TooManyInputs,
    Unavailable,
    channel,
)
from serving import serving
from torture.relay import relay

NOBODY = "127.0.0.1:1"  # a port that nobody listens on


async def test_each_reason_has_its_own_error_with_field_and_facts(client: Client, async_client: AsyncClient) -> None:
    with pytest.raises(InputTooLong, match="over the limit of 512") as too_long:
        client.generate(["fine", "long text"])
    error = too_long.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG")
    assert (error.field, error.metadata) == ("inputs[1]", {"limit": "512"})
    assert isinstance(error, ValueError)
    with pytest.raises(TooManyInputs, match="9 are over the limit of 8") as too_many:
        await async_client.generate(["a"] * 9)
    assert too_many.value.field == "inputs"
    with pytest.raises(ModelNotFound, match="no model 'other'"):
        client.generate(["a"], model="other")
    with pytest.raises(InvalidInput) as empty:
        client.generate([""])
    assert (type(empty.value), empty.value.reason) == (InvalidInput, "INVALID_FIELD")


def test_a_full_queue_says_when_to_come_back(server: FakeServer, client: Client) -> None:
    server.servicer.before = lambda request, context: refuse(
        context,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "3 requests do not fit",
        "QUEUE_FULL",
        retry_after=Duration(seconds=1, nanos=500_000_000),
        request_id="request-7",
    )
    with pytest.raises(QueueFull, match="3 requests do not fit") as caught:
        client.generate(["a"])
    assert (caught.value.retry_after, caught.value.request_id) == (1.5, "request-7")
    assert len(server.servicer.calls) == 3


def test_pushback_and_request_id_are_read_from_trailers(server: FakeServer, client: Client) -> None:
    def before(request: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "20"), ("x-request-id", "request-8")))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")

    server.servicer.before = before
    with pytest.raises(QueueFull) as caught:
        client.generate(["a"])
    assert (caught.value.retry_after, caught.value.request_id, caught.value.reason) == (0.02, "request-8", "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QueueFull),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.DATA_LOSS, ServerError),
    ],
)
def test_a_bare_status_code_is_enough(server: FakeServer, code: grpc.StatusCode, kind: type[SeqserveError]) -> None:
    server.servicer.before = aborting(code)
    with Client(server.target, timeout=20, max_attempts=1) as client:
        with pytest.raises(kind) as unary:
            client.generate(["a"])
        with pytest.raises(kind) as streamed:
            list(client.stream("a"))
    for error in (unary.value, streamed.value):
        assert (type(error), error.code, error.reason, error.retry_after) == (kind, code, "", None)
        assert str(error) == "no"


def test_details_that_contradict_the_status_are_left_out(server: FakeServer) -> None:
    def before(request: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x03\x12\x05other"),))
        context.abort(grpc.StatusCode.INTERNAL, "no")

    server.servicer.before = before
    with Client(server.target, timeout=20) as client, pytest.raises(ServerError, match=r"^no$"):
        client.generate(["a"])


async def test_the_asyncio_stream_raises_typed_errors_too(server: FakeServer, async_client: AsyncClient) -> None:
    server.servicer.before = aborting(grpc.StatusCode.INTERNAL)
    with pytest.raises(ServerError):
        async for _chunk in async_client.stream("a"):
            pass


async def test_no_server_is_unavailable() -> None:
    with Client(NOBODY, timeout=20) as client:
        with pytest.raises(Unavailable):
            client.generate(["a"])
        with pytest.raises(Unavailable):
            next(client.stream("a"))
        with pytest.raises(Unavailable):
            client.health()
    async with AsyncClient(NOBODY, timeout=20) as async_client:
        with pytest.raises(Unavailable):
            await async_client.info()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"token_ids": [[1], [2**31]]}, "inputs[1].token_ids"),
        ({"token_ids": [[-(2**31) - 1]]}, "inputs[0].token_ids"),
        ({"texts": ["lone \ud800"]}, "inputs[0].text"),
        ({"tokens": [["\ud800"]]}, "inputs[0].tokens"),
        ({"texts": ["a"], "max_new_tokens": 2**40}, "options.max_new_tokens"),
        ({"texts": ["a"], "max_new_tokens": "many"}, "options.max_new_tokens"),
    ],
)
def test_values_that_fit_no_message_are_invalid_input(
    server: FakeServer, client: Client, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.generate(**arguments)
    assert caught.value.field == field
    with pytest.raises(InvalidInput) as streamed:
        client.stream(token_ids=[2**31])
    assert streamed.value.field == "input.token_ids"
    assert server.servicer.calls == []


async def test_a_server_that_a_network_cuts_off_is_noticed_by_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the deadline, and before the minute that gRPC waits for the answer to a ping if it is told nothing."""
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 1000)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_MS", 1000)
    async with serving() as served:
        served.engine.hold()
        with relay(served.server.port) as way:
            async with AsyncClient(way.target, timeout=30, max_attempts=1) as client:
                call = asyncio.ensure_future(client.generate(["c d"]))
                await served.until(lambda: served.inside == 1)
                way.cut()
                with pytest.raises(Unavailable):
                    await call
