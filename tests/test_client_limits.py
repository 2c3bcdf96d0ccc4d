"""Retries, deadlines and message sizes: what the channel's settings do. gRPC ignores misspelt settings silently."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from fake_server import FakeServer, aborting, sleep
from seqserve_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    MessageTooLarge,
    ServerError,
    Unavailable,
)
from seqserve_client.channel import Connection


def failing_first(times: int, code: grpc.StatusCode) -> Callable[[Any, grpc.ServicerContext], None]:
    """Refuse the first calls, then answer."""
    left = [times]

    def before(request: Any, context: grpc.ServicerContext) -> None:
        if left[0]:
            left[0] -= 1
            context.abort(code, "not now")

    return before


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED]
)
async def test_lost_calls_are_repeated_until_the_third_attempt(
    server: FakeServer, client: Client, async_client: AsyncClient, code: grpc.StatusCode
) -> None:
    server.servicer.before = failing_first(2, code)
    assert client.generate(["a"])[0].text == "A"
    server.servicer.before = failing_first(1, code)
    assert (await async_client.generate(["b"]))[0].text == "B"
    server.servicer.before = failing_first(1, code)
    assert "".join(chunk.text for chunk in client.stream("c d")) == "C D"
    assert len(server.servicer.calls) == 7


def test_other_failures_and_single_attempts_are_not_repeated(server: FakeServer, client: Client) -> None:
    server.servicer.before = aborting(grpc.StatusCode.INTERNAL)
    with pytest.raises(ServerError):
        client.generate(["a"])
    assert len(server.servicer.calls) == 1
    server.servicer.before = aborting(grpc.StatusCode.UNAVAILABLE)
    with Client(server.target, max_attempts=1) as single, pytest.raises(Unavailable):
        single.generate(["a"])
    assert len(server.servicer.calls) == 2


def test_a_stream_that_began_is_not_repeated(server: FakeServer, client: Client) -> None:
    calls: list[str] = []

    def fail() -> None:
        calls.append("chunk")
        raise RuntimeError("the server broke")

    server.servicer.between_chunks = fail
    stream = client.stream("two dogs")
    assert next(stream).text == "TWO"
    with pytest.raises(ServerError):
        next(stream)
    assert len(server.servicer.calls) == len(calls) == 1


async def test_the_timeout_of_a_call_overrides_the_clients(server: FakeServer) -> None:
    server.servicer.before = sleep(0.3)
    with Client(server.target, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            client.generate(["a"])
        with pytest.raises(DeadlineExceeded):
            list(client.stream("a"))
        assert client.generate(["a"], timeout=20)[0].text == "A"
        assert client.generate(["a"], timeout=None)[0].text == "A"
    async with AsyncClient(server.target) as async_client:
        with pytest.raises(DeadlineExceeded):
            await async_client.generate(["a"], timeout=0.05)


def test_every_call_has_a_deadline_unless_told_otherwise(server: FakeServer) -> None:
    remaining: list[float | None] = []
    server.servicer.before = lambda request, context: remaining.append(context.time_remaining())
    with Client(server.target) as client:
        client.generate(["a"])
        client.generate(["a"], timeout=None)
    bounded, unbounded = remaining
    assert bounded is not None
    assert 50 < bounded < 61, "60 seconds by a clock that may be set meanwhile"
    assert unbounded is None or unbounded > 1e6


async def test_a_request_over_the_limit_is_refused_before_it_is_sent(server: FakeServer) -> None:
    with Client(server.target, max_message_bytes=1000) as client:
        with pytest.raises(MessageTooLarge, match="over the limit of 1000") as caught:
            client.generate(["x" * 1001])
        with pytest.raises(MessageTooLarge):
            client.stream("x" * 1001)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    async with AsyncClient(server.target) as async_client:
        with pytest.raises(MessageTooLarge, match="over the limit of 4194304"):
            await async_client.generate(["x" * 4_194_304])
    assert server.servicer.calls == []


def test_an_answer_over_the_limit_is_message_too_large(server: FakeServer) -> None:
    with Client(server.target, max_message_bytes=1000) as client, pytest.raises(MessageTooLarge, match="larger than"):
        client.generate(["x" * 900])


def test_a_server_with_a_lower_limit_is_message_too_large() -> None:
    with FakeServer(options=[("grpc.max_receive_message_length", 1000)]) as server, Client(server.target) as client:
        with pytest.raises(MessageTooLarge, match="larger than max"):
            client.generate(["x" * 1001])
        assert client.generate(["x"])[0].text == "X"


def test_a_raised_limit_lets_large_messages_through() -> None:
    limit = 6 * 2**20
    with (
        FakeServer(options=[("grpc.max_receive_message_length", limit)]) as server,
        Client(server.target, max_message_bytes=limit) as client,
    ):
        sent = client.generate(["x" + " " * (5 * 2**20)])
        assert sent[0].text == "X"
        (received,) = client.generate(["x" * (5 * 2**19)])  # comes back as text and as token
        assert len(received.text) == 5 * 2**19


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_senseless_timeout_is_refused(server: FakeServer, client: Client, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        client.generate(["a"], timeout=timeout)
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        Client(server.target, timeout=timeout)


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_message_bytes"):
        Connection("host:1", None, 0, 3)
    for attempts in (0, 6):
        with pytest.raises(ValueError, match="max_attempts"):
            Connection("host:1", None, 1, attempts)
