"""Rows 14 and 15: engines that die or hang, processes that are killed, and who is told."""

import asyncio
import contextlib
import itertools
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2

from arithmetic_engine import ArithmeticEngine
from faulty_engine import FaultyEngine
from pencil_server import DIE, HANG, KILL, pencil_server
from serving import ask, ask_stream, ids, make_health, make_stub, serving
from torture.prober import SERVING, probing
from torture.progress import Progress

WAVE = 8
ABREAST = 4  # servers that are started while others end
IN_PROCESS = 9  # of ten kills so many are of the engine's thread in a server of this process
PLACES = itertools.count()
STUCK_SECONDS = 30.0  # a caller that waits for so long is stuck


@dataclass(slots=True)
class Told:
    """What callers were told, how processes ended, and what health said."""

    codes: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    taken: int = 0
    wrong: int = 0


async def _callers(target: str, tokens: list[int]) -> Counter[str]:
    """How calls end, half of them streams."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = make_stub(channel)
        calls: list[Any] = [
            stub.Generate(ask(ids(token), "c d"), timeout=STUCK_SECONDS) if place % 2
            else stub.GenerateStream(ask_stream(ids(token)), timeout=STUCK_SECONDS)
            for place, token in enumerate(tokens)
        ]
        return Counter([(await call.code()).name for call in calls])


async def _lost(row: str, losses: list[Callable[[Told], Awaitable[None]]]) -> str:
    """Lose them all, some at a time, and see that everybody was told."""
    told, turn, begun = Told(), asyncio.Semaphore(ABREAST), time.monotonic()
    progress = Progress(row, len(losses))

    async def one(lose: Callable[[Told], Awaitable[None]]) -> None:
        async with turn:
            await lose(told)
            progress.add()

    await asyncio.gather(*map(one, losses))
    codes = told.codes
    assert codes["DEADLINE_EXCEEDED"] == 0, f"callers were left waiting: {codes}"
    assert set(codes) <= {"UNAVAILABLE", "CANCELLED"}, codes
    assert set(told.exits) <= {1, -signal.SIGKILL}, told.exits
    assert told.wrong == 0, f"{told.wrong} health samples were wrong"
    return (f"{len(losses)} lost, {sum(codes.values())} callers told, 0 stuck ({dict(codes)}); {told.taken} health "
            f"samples, {told.wrong} wrong; {(time.monotonic() - begun) / len(losses):.2f} s each")


def _process(token: int, **config: Any) -> Callable[[Told], Awaitable[None]]:
    """A server process that is lost over a request with this token.

    Each has an address of its own: the port of one that has gone may be the next one's, which rightly is SERVING.
    """
    async def lose(told: Told) -> None:
        host = f"127.0.1.{next(PLACES) % 250 + 1}"
        async with contextlib.AsyncExitStack() as stack:
            running = contextlib.ExitStack()
            stack.push_async_callback(asyncio.to_thread, running.close)
            server = await asyncio.to_thread(running.enter_context, pencil_server(host=host, **config))
            # Whatever it says or does not say, until somebody was told; from then on SERVING is wrong.
            async with probing(server.target, lambda: None, every=0.02) as samples:
                told.codes += await _callers(server.target, [token] * WAVE)
                told.wrong += await _says_serving(server.target)
            told.taken, told.wrong = told.taken + samples.taken, told.wrong + samples.wrong
            told.exits[await asyncio.to_thread(server.process.wait, 60)] += 1

    return lose


async def _thread(told: Told) -> None:
    """A server in this process whose engine's thread ends over a request."""
    engine = FaultyEngine(ArithmeticEngine())
    engine.deadly = DIE
    async with serving(cast(ArithmeticEngine, engine), hang_seconds=0) as served:
        target = f"127.0.0.1:{served.server.port}"
        async with probing(target, lambda: None, every=0.02) as samples:
            told.codes += await _callers(target, [DIE] * WAVE)
            told.wrong += await _says_serving(target)
        told.taken, told.wrong = told.taken + samples.taken, told.wrong + samples.wrong
        async with asyncio.timeout(STUCK_SECONDS):
            await served.server.failed.wait()
        assert served.inside == 0, "requests are still inside"


async def _says_serving(target: str) -> int:
    async with grpc.aio.insecure_channel(target) as channel:
        with contextlib.suppress(grpc.aio.AioRpcError):
            answer = await make_health(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            return int(answer.status == SERVING)
    return 0


async def kills(count: int) -> str:
    """So many engines that die by an exception, most of them without a process of their own, and killed processes."""
    kinds = [_process(DIE), *[_thread] * IN_PROCESS, _process(KILL), *[_thread] * IN_PROCESS]
    return await _lost("kills", [kinds[number % len(kinds)] for number in range(count)])


async def hangs(count: int, hang_seconds: int = 1) -> str:
    """So many engines that hang."""
    return await _lost("hangs", [_process(HANG, hang_seconds=hang_seconds)] * count)
