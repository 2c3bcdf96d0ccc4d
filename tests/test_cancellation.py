"""Callers that go away: in the queue, while running, in mid-stream, by cancelling or by their deadline.

Each time the row is free at the next step, nothing comes after the end, and the place at the gate is given back.
"""

from typing import Any

import grpc
import pytest

from arithmetic_engine import END, ArithmeticEngine
from hand_loop import HandLoop, make_limits
from seqserve_server.request import FinishReason
from serving import ENDLESS, PENCIL_TEXT, Served, ask, ask_stream, ids, serving

ENDLESS_SOURCE = [*ENDLESS, END]


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call ended for its caller, who may have cancelled it."""
    code: grpc.StatusCode = await call.code()
    return code


async def answered_alone(served: Served) -> None:
    """The server is as if nothing had been: nobody inside, and a request gets its answer in a batch of one."""
    await served.until(lambda: served.inside == 0)
    steps = len(served.engine.steps)
    assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    assert set(served.engine.steps[steps:]) == {1}
    assert served.engine.misuses == []
    await served.until(lambda: served.engine.occupied == [])


def test_a_running_request_that_is_cancelled_gives_its_row_to_the_next_at_the_very_next_step() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    first, second = hand.submit(ENDLESS_SOURCE, stream=True), hand.submit([5, 6, END])
    for _ in range(3):
        hand.step()
    hand.cancel(first)
    assert [event.request_id for event in hand.step()] == [first]
    assert hand.scheduler.running_ids() == [second]
    assert len(hand.engine.steps) == 4
    hand.run()
    assert hand.finished(first).reason is FinishReason.CANCELLED
    assert hand.finished(second).token_ids[0] == 14


@pytest.mark.parametrize("moment", range(18))
def test_a_cancel_at_any_moment_ends_a_request_just_once(moment: int) -> None:
    hand = HandLoop(make_limits(max_rows=2))
    others = [hand.submit([5, 6, END], stream=True) for _ in range(2)]
    number = hand.submit([5, 6, END], stream=True)
    for step in range(38):
        if step == moment * 2:
            hand.cancel(number)
            hand.cancel(number)
        hand.step()
    assert hand.scheduler.idle
    assert number in hand.ended
    assert [hand.finished(other).reason for other in others] == [FinishReason.EOS] * 2
    assert hand.finished(number).reason in (FinishReason.CANCELLED, FinishReason.EOS)


def test_submitting_and_cancelling_in_one_breath_never_reaches_the_engine() -> None:
    hand = HandLoop()
    numbers = [hand.submit(ENDLESS_SOURCE) for _ in range(100)]
    for number in numbers:
        hand.cancel(number)
    hand.run()
    assert hand.engine.encoded == []
    assert {hand.finished(number).reason for number in numbers} == {FinishReason.CANCELLED}


def test_a_storm_of_cancels_leaves_nothing_behind() -> None:
    hand = HandLoop(make_limits(max_rows=4))
    for wave in range(40):
        numbers = [hand.submit([3 + (wave + place) % 26, END], stream=bool(place % 2)) for place in range(10)]
        hand.step()
        for number in numbers[wave % 3 :: 2]:
            hand.cancel(number)
        hand.step()
    hand.run()
    assert len(hand.ended) == 400
    assert hand.engine.occupied == []


async def test_a_caller_that_cancels_in_the_queue_is_gone_before_its_request_starts() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        running = served.stub.Generate(ask("c d"))
        await served.until_stepping()
        waiting = served.stub.Generate(ask(ids(*ENDLESS)))
        await served.until(lambda: served.inside == 2)
        waiting.cancel()
        assert await code_of(waiting) is grpc.StatusCode.CANCELLED
        await served.until_abandoned(1)
        engine.allow()
        assert (await running).results[0].hypotheses[0].text == PENCIL_TEXT
        await answered_alone(served)
    assert [ENDLESS_SOURCE] not in engine.encoded


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_cancels_while_running_frees_its_row(stream: bool) -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        source = ids(*ENDLESS)
        call = served.stub.GenerateStream(ask_stream(source)) if stream else served.stub.Generate(ask(source))
        await served.until_stepping()
        call.cancel()
        assert await code_of(call) is grpc.StatusCode.CANCELLED
        await served.until_abandoned(1)
        engine.allow()
        await answered_alone(served)
    assert len(engine.steps) == 2 + 1 + 16  # warm-up, the held step, the last answer


async def test_a_stream_that_is_left_in_the_middle_stops_the_request() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        engine.allow(3)
        call = served.stub.GenerateStream(ask_stream(ids(*ENDLESS)))
        assert await call.read() is not grpc.aio.EOF
        await served.until_stepping()  # a step that still runs would take the cancellation before it can be seen
        call.cancel()
        await served.until_abandoned(1)
        engine.allow()
        await answered_alone(served)
    assert len(engine.steps) == 2 + 3 + 1 + 16  # warm-up, what was let through, the held step, the last answer


async def test_a_client_that_closes_its_channel_cancels_all_it_asked() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=2) as served:
        engine.hold()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
            other = served.stub.__class__(channel)
            calls = [other.Generate(ask(ids(*ENDLESS))) for _ in range(5)]
            streams = [other.GenerateStream(ask_stream(ids(*ENDLESS))) for _ in range(5)]
            await served.until(lambda: served.inside == 10)
            await served.until_stepping()  # an engine that has not begun takes the cancels before they can be counted
        assert {await code_of(call) for call in (*calls, *streams)} == {grpc.StatusCode.CANCELLED}
        await served.until_abandoned(10)
        engine.allow()
        await answered_alone(served)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_in_the_queue_is_told_and_the_request_never_starts(stream: bool) -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        running = served.stub.Generate(ask("c d"))
        await served.until_stepping()
        method = served.stub.GenerateStream if stream else served.stub.Generate
        late = method((ask_stream if stream else ask)(ids(*ENDLESS)), timeout=2.0)  # it has to arrive first
        assert await code_of(late) is grpc.StatusCode.DEADLINE_EXCEEDED
        await served.until_abandoned(1)  # the server's clock for the call runs a little behind the caller's
        engine.allow()
        await running
        await answered_alone(served)
    assert [ENDLESS_SOURCE] not in engine.encoded


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_while_running_is_told_and_frees_the_row(stream: bool) -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        method = served.stub.GenerateStream if stream else served.stub.Generate
        late = method((ask_stream if stream else ask)(ids(*ENDLESS)), timeout=2.0)
        await served.until_stepping()
        loop = served.server.models.servings[0].loop
        assert len(loop._scheduler._deadlines) == 1  # it could end the request without the transport's help
        assert await code_of(late) is grpc.StatusCode.DEADLINE_EXCEEDED
        await served.until_abandoned(1)
        engine.allow()
        await answered_alone(served)
    assert len(engine.steps) == 2 + 1 + 16


async def test_one_input_of_a_batch_cannot_outlive_its_call() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=4) as served:
        engine.hold()
        call = served.stub.Generate(ask(*[ids(*ENDLESS)] * 50))
        await served.until(lambda: served.inside == 50)
        await served.until_stepping()
        call.cancel()
        assert await code_of(call) is grpc.StatusCode.CANCELLED
        await served.until_abandoned(50)
        engine.allow()
        await answered_alone(served)
