"""Watchers of health: each is told of every change, whoever else comes and goes."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from seqserve_server.health_service import HealthService
from serving import make_health

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def told_after_another_left(servicer: Any) -> bool:
    """Whether a watcher hears of a change after another one of the same service has left."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub, request = make_health(channel), health_pb2.HealthCheckRequest()
            first, second = stub.Watch(request), stub.Watch(request, timeout=3)
            assert (await first.read()).status == (await second.read()).status == SERVING
            first.cancel()
            # Until the server has seen it leave: another call of the same connection that is answered afterwards.
            for _ in range(10):
                await stub.Check(request)
            await servicer.set("", NOT_SERVING)
            try:
                return bool((await second.read()).status == NOT_SERVING)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                return False
    finally:
        await server.stop(0)


async def test_a_watcher_is_told_whoever_else_leaves() -> None:
    servicer = HealthService()
    assert await told_after_another_left(servicer)


async def test_the_service_that_this_replaces_still_forgets_watchers() -> None:
    assert not await told_after_another_left(health.aio.HealthServicer()), "it may be used again"


async def test_watchers_are_told_each_change_and_leave_nothing_behind() -> None:
    servicer = HealthService()
    written: list[Any] = []

    class Context:
        async def write(self, message: Any) -> None:
            written.append(message.status)
            match len(written):
                case 1:
                    await servicer.set("later", NOT_SERVING)  # while the first is being written
                case 2:
                    await servicer.set("later", NOT_SERVING)  # no change
                    await servicer.set("later", SERVING)
                case 3:
                    await servicer.enter_graceful_shutdown()
                    await servicer.set("later", SERVING)  # too late
                case _:
                    raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await servicer.Watch(health_pb2.HealthCheckRequest(service="later"), Context())  # type: ignore[arg-type]
    assert written == [UNKNOWN, NOT_SERVING, SERVING, NOT_SERVING]
    assert servicer._changes == {}
