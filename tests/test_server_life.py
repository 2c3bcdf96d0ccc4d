"""A server from its first moment to its last: loading, serving, draining, and what it says of itself meanwhile."""

import asyncio
import contextlib
import socket
import threading
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from arithmetic_engine import ArithmeticEngine
from faulty_engine import FaultyEngine
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.config import ServerConfig
from seqserve_server.served_model import ServedModel
from seqserve_server.server import RunningServer, running_server
from serving import (
    ENDLESS,
    PENCIL_TEXT,
    Served,
    ask,
    ask_stream,
    ids,
    make_config,
    make_health,
    make_model,
    make_stub,
    serving,
)

SERVICE = "seqserve.v1.Seq2SeqService"


async def test_health_says_not_serving_until_the_model_is_loaded_and_warm() -> None:
    loading, loaded = threading.Event(), threading.Event()
    config, engine = make_config(port=_free_port()), ArithmeticEngine()

    def load(given: ServerConfig) -> ServedModel:
        loading.set()
        assert loaded.wait(30)
        return make_model(given, engine)

    async def serve_until(done: asyncio.Event, ready: asyncio.Event) -> None:
        async with running_server(config, load):
            ready.set()
            await done.wait()

    done, ready = asyncio.Event(), asyncio.Event()
    server = asyncio.ensure_future(serve_until(done, ready))
    try:
        await asyncio.to_thread(loading.wait, 30)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{config.port}") as channel:
            health, stub = make_health(channel), make_stub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            for name, status in (("", "NOT_SERVING"), (SERVICE, "NOT_SERVING"), ("liveness", "SERVING")):
                response = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) == status
            error = await refusal(stub.Generate(ask("c d")))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
            assert "RetryInfo" in error.details
            assert (await refusal(stub.GetModelInfo(pb.GetModelInfoRequest()))).reason == "MODEL_LOADING"
            loaded.set()
            await ready.wait()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == (
                health_pb2.HealthCheckResponse.SERVING
            )
            assert (await stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
            assert engine.encoded[0] == [[1, 1, 1, 1]]  # the warm-up came first
            done.set()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            await server
    finally:
        loaded.set()
        done.set()
        await server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_unknown_service_has_no_health() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def listed(served: Served) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)  # type: ignore[arg-type]
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    return {service.name async for response in call for service in response.list_services_response.service}


async def test_reflection_lists_the_services_unless_switched_off() -> None:
    async with serving() as served:
        assert await listed(served) == {
            SERVICE, "inference.GRPCInferenceService", "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
    async with serving(open_inference=False) as served:
        assert "inference.GRPCInferenceService" not in await listed(served)
    async with serving(reflection=False) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(served)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_draining_finishes_what_runs_and_refuses_what_is_new() -> None:
    engine, leave = ArithmeticEngine(), asyncio.Event()
    config = make_config(port=_free_port())
    started: asyncio.Future[RunningServer] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running_server(config, lambda given: make_model(given, engine)) as server:
            started.set_result(server)
            await leave.wait()

    serving_task = asyncio.ensure_future(serve())
    try:
        server = await started
        async with grpc.aio.insecure_channel(f"127.0.0.1:{config.port}") as channel:
            stub = make_stub(channel)
            watch = make_health(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            engine.hold()
            unary = asyncio.ensure_future(stub.Generate(ask("c d")))
            stream = asyncio.ensure_future(drained(stub.GenerateStream(ask_stream("c d"))))
            while server.open_requests < 2:
                await asyncio.sleep(0.002)
            leave.set()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            code = grpc.StatusCode.OK
            while code is grpc.StatusCode.OK:  # until the connection was told to go away
                code = await stub.GetModelInfo(pb.GetModelInfoRequest()).code()
            assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # the client retries both
            engine.allow()
            assert (await unary).results[0].hypotheses[0].text == PENCIL_TEXT
            assert "".join(message.text for message in await stream) == PENCIL_TEXT
        await serving_task
        assert server.open_requests == 0
    finally:
        leave.set()
        engine.allow()
        await serving_task


@pytest.mark.parametrize("drain_seconds", [0, 1])
async def test_a_drain_that_takes_too_long_is_cut_short_with_an_error(drain_seconds: int) -> None:
    engine = FaultyEngine(ArithmeticEngine())
    async with contextlib.AsyncExitStack() as stack:  # the channel is to outlive the server
        async with serving(cast(ArithmeticEngine, engine), drain_seconds=drain_seconds) as served:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{served.server.port}")
            stub = make_stub(await stack.enter_async_context(channel))
            engine.seconds = 0.1  # 64 tokens, which nobody has the time for
            calls = [
                asyncio.ensure_future(refusal(stub.Generate(ask(ids(*ENDLESS))))),
                asyncio.ensure_future(refusal(drained(stub.GenerateStream(ask_stream(ids(*ENDLESS)))))),
            ]
            await served.until(lambda: served.inside == 2)
            steps = engine.runs
            await served.until(lambda: engine.runs > steps + 3)
        for call in calls:
            error = await call  # a stream that had begun is no exception: an error, never a short answer
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert "RetryInfo" in error.details
