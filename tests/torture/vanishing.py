"""Row 4: clients that are gone in the middle of a call: connections reset, processes killed, networks cut."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from arithmetic_engine import ArithmeticEngine
from raw_http2 import PREFACE, call, connect, settings
from seqserve_server import listening
from serving import ENDLESS, PENCIL_TEXT, Served, ask, ask_stream, ids, make_stub, serving
from torture.garbage import GENERATE, STREAM
from torture.killed_client import forking
from torture.prober import Samples, probing
from torture.progress import Progress
from torture.relay import relay
from torture.remains import PATIENCE, expect_no_more, nothing_inside, remains

WAVE = 40  # of which ROWS run where steps are held, and the others wait
ROWS = 16
PHASES = ("half a message", "sent", "held", "streaming", "answering")
RESET_AT_CLOSE = b"\x01\0\0\0\0\0\0\0"
PROCESSES, CALLS = 20, 8
HELD_TOGETHER = 100  # black holes at a time


async def resets(count: int) -> str:
    """So many connections with a call each, half of them streams, reset in five phases."""
    async with _served() as (served, samples):
        for phase in PHASES:  # once, so that whatever is made once is there
            await _reset(served, phase)
        before = await remains(served)
        waves, progress = max(1, count // WAVE), Progress("resets", count)
        for wave in range(waves):
            await _reset(served, PHASES[wave % len(PHASES)])
            progress.add(WAVE)
        await expect_no_more(served, before)
    return f"{waves * WAVE} reset; {_well(samples)}"


async def _reset(served: Served, phase: str) -> None:
    """One wave of connections that are reset in a phase."""
    engine = served.engine
    held = phase in ("held", "streaming")
    if held:
        engine.hold()
    source = ids(5, 6) if phase == "answering" else ids(*ENDLESS)
    calls = (call(GENERATE, ask(source).SerializeToString()), call(STREAM, ask_stream(source).SerializeToString()))
    if phase == "half a message":
        calls = tuple(each[:-4] for each in calls)  # type: ignore[assignment]
    with contextlib.ExitStack() as stack:
        for place in range(WAVE):
            connection = await asyncio.to_thread(connect, f"127.0.0.1:{served.server.port}")
            stack.enter_context(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            connection.sendall(PREFACE + settings() + calls[place % 2])
        if held:
            await _arrived(served, WAVE)
        if phase == "streaming":
            engine.stepping.clear()
            engine.allow(3)
            await _arrived(served, WAVE)
    if held:
        await _freed_at_the_next_step(served, WAVE)
    else:
        await nothing_inside(served, PATIENCE)


async def _arrived(served: Served, calls: int) -> None:
    """Wait until so many requests are inside, and a step of theirs is held."""
    async with asyncio.timeout(PATIENCE):
        # Or more: of the wave before, a call may arrive now.
        await served.until(lambda: served.inside >= calls)
        await served.until_stepping()


async def _freed_at_the_next_step(served: Served, calls: int) -> None:
    """Let no more than the step go that is held: nothing may be left of so many callers that are gone."""
    loop = served.server.models.servings[0].loop
    async with asyncio.timeout(PATIENCE):
        await served.until(lambda: sum(isinstance(message, int) for message in loop._inbox) >= calls)
    served.engine.allow(1)
    await nothing_inside(served, PATIENCE)
    served.engine.allow()


async def client_kills(count: int) -> str:
    """So many processes of clients killed, each with calls of both kinds that run and wait."""
    async with _served() as (served, samples):
        with forking(f"127.0.0.1:{served.server.port}", CALLS) as start:
            await _kill(served, start, 1)  # once, for whatever is made once
            before = await remains(served)
            done, progress = 0, Progress("client_kills", count)
            while done < count:
                clients = min(PROCESSES, count - done)
                await _kill(served, start, clients)
                done += clients
                progress.add(clients)
            await expect_no_more(served, before)
    return f"{count} with {CALLS} calls each; {_well(samples)}"


async def _kill(served: Served, start: Callable[[int], list[int]], clients: int) -> None:
    """So many of them, when all of their calls are inside."""
    served.engine.hold()
    started = await asyncio.to_thread(start, clients)
    try:
        await _arrived(served, CALLS * clients)
    finally:
        for client in started:
            os.kill(client, signal.SIGKILL)
    await _freed_at_the_next_step(served, CALLS * clients)


async def black_holes(count: int) -> str:
    """So many clients, with a stream and a unary call each, that a network without a word cuts off."""
    most = (listening.KEEPALIVE_MS + listening.KEEPALIVE_TIMEOUT_MS) / 1000
    progress, slowest = Progress("black_holes", count), 0.0
    async with _served() as (served, samples):
        before = await remains(served)
        for first in range(0, count, HELD_TOGETHER):
            clients = min(HELD_TOGETHER, count - first)
            slowest = max(slowest, await _cut_off(served, clients, most))
            progress.add(clients)
        await expect_no_more(served, before)
    return f"{count}, the last freed after {slowest:.1f} s of {most:.0f}; {_well(samples)}"


async def _cut_off(served: Served, clients: int, most: float) -> float:
    """Cut them off once they have lived through pings; returns the seconds until nothing of them was left."""
    served.engine.hold()
    pace = asyncio.ensure_future(_steps(served.engine, most / 4))
    try:
        with relay(served.server.port) as way, _calling(way.target, clients):
            await _arrived(served, 2 * clients)
            await asyncio.sleep(1.5 * most)
            assert served.inside == 2 * clients, "who answers pings was cut off"
            descriptors = len(os.listdir("/proc/self/fd"))
            way.cut()
            begun = time.monotonic()
            await nothing_inside(served, most + PATIENCE)
            freed = time.monotonic() - begun
            async with asyncio.timeout(PATIENCE):
                await served.until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors - clients)
    finally:
        pace.cancel()
        served.engine.allow()
    return freed


async def _steps(engine: ArithmeticEngine, every: float) -> None:
    """Let a step go now and then, so that streams flow, and nobody's answer ends before its time."""
    while True:
        await asyncio.sleep(every)
        engine.allow(1)


@contextlib.contextmanager
def _calling(target: str, clients: int) -> Iterator[None]:
    """So many clients with a connection of their own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels, kept = [grpc.aio.insecure_channel(target, options=options) for _ in range(clients)], []
    for channel in channels:
        stub = make_stub(channel)
        calls: list[Any] = [stub.Generate(ask(ids(*ENDLESS))), stub.GenerateStream(ask_stream(ids(*ENDLESS)))]
        kept += calls
    try:
        yield
    finally:
        for each in kept:
            each.cancel()


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[tuple[Served, Samples]]:
    """A server whose health is asked all the time, and which does nothing wrong, then or afterwards."""
    async with serving(max_rows=ROWS) as served:
        async with probing(f"127.0.0.1:{served.server.port}") as samples:
            yield served, samples
        assert samples.wrong == 0, f"{samples.wrong} health samples were wrong, {samples.unreachable} of them no answer"
        assert served.engine.misuses == []
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT


def _well(samples: Samples) -> str:
    return f"0 slots, tasks and descriptors left; {samples.taken} health samples, {samples.wrong} wrong"
