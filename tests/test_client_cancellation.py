"""Leaving a stream, in every way there is, ends the call on the server."""

import asyncio
import gc
import threading
import time
from typing import Any

import grpc
import pytest

from fake_server import FakeServer, sleep
from seqserve_client import (
    AsyncClient,
    Cancelled,
    Chunk,
    Client,
)

WORDS = " ".join(["word"] * 2000)


def endless(server: FakeServer) -> None:
    """Streams go on until their call ends: a word is due only when the test could have noticed."""
    server.servicer.between_chunks = lambda: time.sleep(0.01)


def test_breaking_out_of_a_stream_cancels_the_call(client: Client, server: FakeServer) -> None:
    endless(server)
    for chunk in client.stream(WORDS):
        assert chunk.text == "WORD"
        break
    assert server.servicer.ended.acquire(timeout=10)


def test_closing_a_stream_cancels_the_call_and_ends_the_iteration(client: Client, server: FakeServer) -> None:
    endless(server)
    stream = client.stream(WORDS)
    next(stream)
    stream.close()
    assert server.servicer.ended.acquire(timeout=10)
    assert list(stream) == []
    with client.stream(WORDS) as second:
        next(second)
    assert server.servicer.ended.acquire(timeout=10)


def test_a_stream_lost_in_a_reference_cycle_is_cancelled_when_collected(client: Client, server: FakeServer) -> None:
    endless(server)
    stream: Any = client.stream(WORDS)
    next(stream)
    stream.itself = stream
    del stream
    gc.collect()
    assert server.servicer.ended.acquire(timeout=10)


def test_cancel_from_another_thread_raises_cancelled_and_is_not_retried(client: Client, server: FakeServer) -> None:
    server.servicer.before = sleep(1)
    stream = client.stream("two dogs")
    threading.Timer(0.1, stream.cancel).start()
    with pytest.raises(Cancelled) as caught:
        next(stream)
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert list(stream) == []
    assert server.servicer.ended.acquire(timeout=10)
    assert len(server.servicer.calls) == 1


def test_a_finished_stream_can_be_closed_and_cancelled(client: Client) -> None:
    stream = client.stream("a")
    assert len(list(stream)) == 2
    stream.cancel()
    stream.close()


async def test_breaking_out_of_an_asynchronous_stream_cancels_the_call(
    async_client: AsyncClient, server: FakeServer
) -> None:
    endless(server)
    async for _chunk in async_client.stream(WORDS):
        break
    assert await asyncio.to_thread(server.servicer.ended.acquire, timeout=10)
    async with async_client.stream(WORDS) as stream:
        await anext(stream)
    assert await asyncio.to_thread(server.servicer.ended.acquire, timeout=10)
    assert [chunk async for chunk in stream] == []


async def test_cancel_of_an_asynchronous_stream_raises_cancelled(async_client: AsyncClient, server: FakeServer) -> None:
    endless(server)
    stream = async_client.stream(WORDS)
    await anext(stream)
    stream.cancel()
    with pytest.raises(Cancelled):
        async for _chunk in stream:
            pass


async def test_a_cancelled_task_stays_a_cancelled_task(async_client: AsyncClient, server: FakeServer) -> None:
    server.servicer.before = sleep(0.5)

    async def consume() -> list[Chunk]:
        return [chunk async for chunk in async_client.stream("two dogs")]

    for work in (consume(), async_client.generate(["two dogs"])):
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.servicer.ended.acquire, timeout=10)
