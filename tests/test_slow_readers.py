"""Clients that open a stream and read nothing: their requests end, and nobody waits for them."""

import asyncio
from typing import Any

import pytest

from arithmetic_engine import ArithmeticEngine
from raw_http2 import PREFACE, call, connect, settings
from seqserve_server import service
from serving import ENDLESS, PENCIL_TEXT, ask, ask_stream, ids, serving

STREAM = "/seqserve.v1.Seq2SeqService/GenerateStream"


async def unread(write_timeout_seconds: int) -> None:
    request = ask_stream(ids(*ENDLESS), max_new_tokens=60).SerializeToString()
    async with serving(ArithmeticEngine(), write_timeout_seconds=write_timeout_seconds, max_rows=4) as served:
        connections = [connect(f"127.0.0.1:{served.server.port}") for _ in range(8)]
        try:
            for connection in connections:
                connection.sendall(PREFACE + settings(INITIAL_WINDOW_SIZE=0) + call(STREAM, request))
            await served.until(lambda: served.server.models.calls == 8)
            # Their rows do not wait for them: others are answered before any of their time is over.
            assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
            assert served.server.models.calls == 8
            await served.until(lambda: served.inside == 0)
            await served.until(lambda: served.server.models.calls == 0)
        finally:
            for connection in connections:
                connection.close()


async def test_a_stream_that_nobody_reads_ends_after_its_time() -> None:
    await unread(2)


@pytest.mark.timeout(60)
async def test_without_a_time_it_stays_for_as_long_as_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: the time is forgotten, and the calls are there when somebody stops waiting for their end."""
    honest: Any = vars(service)["write"]
    monkeypatch.setattr(service, "write", lambda context, message, seconds: honest(context, message, 0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(6):
            await unread(1)
