"""Asks a server for its health beside whatever else happens to it, and counts what it should not have said."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2

from serving import make_health

SERVING = health_pb2.HealthCheckResponse.SERVING
Expected = Callable[[], set[int] | None]


@dataclass(slots=True)
class Samples:
    """What was seen. ``unreachable`` are those that got no answer at all."""

    taken: int = 0
    wrong: int = 0
    unreachable: int = 0


@contextlib.asynccontextmanager
async def probing(target: str, expected: Expected = lambda: {SERVING}, every: float = 0.002) -> AsyncIterator[Samples]:
    """Samples of readiness while inside.

    Args:
        expected: What health may say, asked before and after a sample, whose answer has to be in one of both; None for
            whatever, an unreachable server too.
    """
    samples, over = Samples(), asyncio.Event()

    async def probe(channel: grpc.aio.Channel) -> None:
        health = make_health(channel)
        while not over.is_set():
            before = expected()
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                samples.unreachable += 1
                samples.wrong += before is not None and expected() is not None
            else:
                after = expected()
                allowed = before is None or after is None or answer.status in before | after
                samples.wrong += not allowed
            samples.taken += 1
            await asyncio.sleep(every)

    async with grpc.aio.insecure_channel(target) as channel:
        task = asyncio.ensure_future(probe(channel))
        try:
            yield samples
        finally:
            over.set()
            await task
