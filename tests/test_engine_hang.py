"""An engine that hangs or dies: health says so, everybody is told once and at once, and the process ends."""

import asyncio
import os
import signal
import time
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from arithmetic_engine import ArithmeticEngine
from faulty_engine import FaultyEngine
from pencil_server import DIE, HANG, KILL, pencil_server
from refusals import drained, refusal
from seqserve_server import dispatch
from seqserve_server.dispatch import Dispatcher
from serving import PENCIL_TEXT, Served, ask, ask_stream, ids, make_health, make_stub, serving

STOPPED = (grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED")


def faulty() -> FaultyEngine:
    engine = FaultyEngine(ArithmeticEngine())
    engine.hanging, engine.deadly = HANG, DIE
    return engine


def serving_faulty(engine: FaultyEngine, **config: Any) -> Any:
    return serving(cast(ArithmeticEngine, engine), **config)


async def statuses(served: Served) -> list[str]:
    found = []
    for name in ("", "seqserve.v1.Seq2SeqService", "liveness"):
        response = await served.health.Check(health_pb2.HealthCheckRequest(service=name))
        found.append(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
    return found


@pytest.mark.parametrize("token", [HANG, DIE])
async def test_everybody_is_told_once_and_health_says_so(token: int) -> None:
    engine = faulty()
    async with serving_faulty(engine, hang_seconds=1, max_rows=4) as served:
        try:
            unary, stream = served.stub.Generate, served.stub.GenerateStream
            calls = [refusal(unary(ask("c d", "c d", ids(token)))) for _ in range(9)]
            calls += [refusal(drained(stream(ask_stream(ids(token))))) for _ in range(9)]
            errors = await asyncio.gather(*calls)
            assert {(error.code, error.reason) for error in errors} == {STOPPED}
            assert served.server.failed.is_set()
            assert await statuses(served) == ["NOT_SERVING"] * 3
            late = await refusal(served.stub.Generate(ask("c d")))
            assert (late.code, late.reason) == STOPPED
            assert served.inside == 0
        finally:
            engine.let_go()


async def test_what_a_hung_engine_says_in_the_end_is_for_nobody() -> None:
    engine, faults = faulty(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving_faulty(engine, hang_seconds=1) as served:
        call = asyncio.ensure_future(refusal(served.stub.Generate(ask(ids(HANG), "c d"))))
        assert (await call).reason == "ENGINE_STOPPED"
        (serving_,) = served.server.models.servings
        assert serving_.dispatcher.open_requests == 0
        engine.let_go()
        await served.until(lambda: not serving_.loop.busy)
        await asyncio.sleep(0.2)  # what it published is delivered
        assert serving_.dispatcher.open_requests == 0
        assert faults == [], "a late event was not ignored"


async def test_a_dispatcher_that_forgets_who_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: only health and the process end, and callers find out by their own deadlines."""
    monkeypatch.setattr(Dispatcher, "close", lambda self, why: None)
    engine = faulty()
    async with serving_faulty(engine, hang_seconds=1) as served:
        call = served.stub.Generate(ask(ids(HANG)), timeout=3)
        await served.server.failed.wait()
        try:
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            engine.let_go()


async def test_a_dispatcher_that_ends_a_caller_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: late events count once more at the gate."""
    monkeypatch.setattr(Dispatcher, "_end", _counts_late_ends)
    with pytest.raises(AssertionError):
        await test_what_a_hung_engine_says_in_the_end_is_for_nobody()


def _counts_late_ends(self: Dispatcher, request_id: int, end: dispatch.End) -> None:
    self._gate.leave(self._entered[request_id])
    caller = self._callers.pop(request_id, None)
    if isinstance(caller, dispatch.Stream):
        caller.ended = end
        caller.ready.set()
    elif caller is not None:
        caller.ended[request_id] = end
        if len(caller.ended) == caller.count and not caller.done.done():
            caller.done.set_result(None)


async def test_zero_seconds_watch_nothing() -> None:
    engine = faulty()
    async with serving_faulty(engine, hang_seconds=0) as served:
        call = asyncio.ensure_future(served.stub.Generate(ask(ids(HANG))))
        await asyncio.to_thread(engine.hung.wait, 30)
        engine.let_go()
        assert (await call).results
        assert not served.server.failed.is_set()


async def asked(target: str, token: int, count: int = 8) -> set[tuple[grpc.StatusCode, str]]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = make_stub(channel)
        calls: list[Any] = [refusal(stub.Generate(ask(ids(token), "c d"))) for _ in range(count)]
        calls += [refusal(drained(stub.GenerateStream(ask_stream(ids(token))))) for _ in range(count)]
        return {(error.code, error.reason) for error in await asyncio.gather(*calls)}


@pytest.mark.parametrize("token", [HANG, DIE])
async def test_a_process_without_its_engine_tells_everybody_and_ends(token: int) -> None:
    with pencil_server(hang_seconds=1, drain_seconds=600) as server:
        assert await asked(server.target, token) == {STOPPED}
        assert await asyncio.to_thread(server.process.wait, 60) == 1


async def test_a_process_that_is_killed_leaves_nobody_waiting() -> None:
    with pencil_server() as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            calls = [make_stub(channel).Generate(ask(ids(KILL))) for _ in range(8)]
            codes = {await call.code() for call in calls}
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        assert await asyncio.to_thread(server.process.wait, 60) == -signal.SIGKILL


async def test_a_process_whose_event_loop_stands_still_too_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCIL_HANGS_WHOLE", "1")
    with pencil_server(hang_seconds=1) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert await make_stub(channel).Generate(ask(ids(HANG))).code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(server.process.wait, 60) == 1


async def test_a_process_that_is_stopped_for_longer_than_a_hang_goes_on() -> None:
    with pencil_server(hang_seconds=1, step_seconds=0.1) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            call = make_stub(channel).Generate(ask("c d"))
            await asyncio.sleep(0.5)
            for _ in range(2):
                os.kill(server.pid, signal.SIGSTOP)
                await asyncio.to_thread(time.sleep, 2.0)
                os.kill(server.pid, signal.SIGCONT)
                await asyncio.sleep(0.1)
            assert (await call).results[0].hypotheses[0].text == PENCIL_TEXT
            health = await make_health(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
