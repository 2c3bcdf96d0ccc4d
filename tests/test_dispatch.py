"""Between callers and the loop: who waits for what, asserted by turning the loop by hand."""

import asyncio
import gc
from dataclasses import replace

import pytest

from arithmetic_engine import END, START, ArithmeticEngine, answer
from hand_loop import make_limits, stepped
from pencil import scores
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.dispatch import Dispatcher
from seqserve_server.engine import Pair
from seqserve_server.engine_thread import Runner
from seqserve_server.errors import DeadlinePassed, EngineFailure, EngineStopped, QueueFull
from seqserve_server.gate import Gate, GateLimits
from seqserve_server.loop import Loop
from seqserve_server.request import Finished, FinishReason, Request, ScoreRequest
from seqserve_server.scheduler import Scheduler

SOURCE = (5, 6, END)
TOKENS = answer(SOURCE, 40)[0]
ENDLESS = (26, END)


class Desk:
    """A dispatcher whose loop runs only when told, on the same thread."""

    def __init__(self, places: int = 8) -> None:
        self.engine = ArithmeticEngine()
        self.dispatcher = Dispatcher(Gate(GateLimits(places, 0)))
        self.loop = Loop(self.engine, Scheduler(make_limits(max_rows=4)), self.dispatcher.publish)
        self.dispatcher.attach(self.loop)

    async def step(self, count: int = 1) -> None:
        """Steps, after each of which every caller had its turn."""
        await stepped(self.loop, count)


def run(loop: Loop) -> None:
    """As the engine thread does, on this one, to the end."""
    runner = Runner()
    runner.add(loop)
    runner.run()


def request(source: tuple[int, ...] = SOURCE, most: int = 40, deadline: float | None = None) -> Request:
    return Request(0, source, (START,), SearchSettings(END, most), deadline=deadline)


def pair(*tokens: int) -> ScoreRequest:
    return ScoreRequest(0, Pair(SOURCE, (START, *tokens, END), 1))


async def test_a_batch_is_answered_when_its_last_request_ends_and_in_its_order() -> None:
    desk = Desk()
    task = asyncio.ensure_future(desk.dispatcher.generate([request(most=6), request(most=2), request(most=4)]))
    await desk.step(5)
    assert not task.done()
    assert desk.dispatcher.open_requests == 1
    await desk.step()
    assert [len(result.token_ids) for result in await task] == [6, 2, 4]
    assert desk.dispatcher.open_requests == 0


async def test_a_slow_reader_gets_everything_that_piled_up_and_loses_no_token() -> None:
    desk = Desk()
    parts: list[list[int]] = []
    ends: list[Finished] = []
    stream = desk.dispatcher.stream(request())
    first = asyncio.ensure_future(anext(stream))
    await desk.step(2)
    for part in (await first,):
        assert isinstance(part, list)
        parts.append(part)
    await desk.step(30)  # it ends while the reader is still busy with the first part
    async for part in stream:
        if isinstance(part, Finished):
            ends.append(part)
        else:
            parts.append(part)
    assert len(parts) == 2
    assert [token_id for part in parts for token_id in part] == TOKENS
    assert [end.token_ids for end in ends] == [TOKENS]


async def test_nothing_comes_after_the_end_of_a_stream() -> None:
    desk = Desk()
    kinds: list[type[object]] = []

    async def read() -> None:
        async for part in desk.dispatcher.stream(request()):
            kinds.append(type(part))

    task = asyncio.ensure_future(read())
    await desk.step(20)
    await task
    assert kinds == [list] * (len(kinds) - 1) + [Finished]


async def test_closing_a_stream_cancels_its_request_and_gives_the_place_back_when_it_ended() -> None:
    desk = Desk()
    stream = desk.dispatcher.stream(request(ENDLESS))
    first = asyncio.ensure_future(anext(stream))
    await desk.step()
    await first
    await stream.aclose()
    assert desk.dispatcher.open_requests == 1
    await desk.step()
    assert desk.dispatcher.open_requests == 0
    assert desk.engine.steps == [1]


async def test_cancelling_a_batch_cancels_what_has_not_ended() -> None:
    desk = Desk()
    task = asyncio.ensure_future(desk.dispatcher.generate([request(most=1), request(ENDLESS), request(ENDLESS)]))
    await desk.step(2)
    assert desk.dispatcher.open_requests == 2
    task.cancel()
    await desk.step()
    assert task.cancelled()
    assert desk.dispatcher.open_requests == 0
    assert desk.dispatcher._callers == {}


async def test_a_call_that_does_not_fit_the_queue_leaves_no_trace() -> None:
    desk = Desk(places=2)
    with pytest.raises(QueueFull):
        await desk.dispatcher.generate([request()] * 3)
    with pytest.raises(QueueFull):
        await desk.dispatcher.generate([request()] * 100_000)
    assert desk.dispatcher.open_requests == 0
    assert desk.dispatcher._callers == {}
    assert not desk.loop._inbox


async def test_one_failure_fails_the_call_after_all_its_requests_ended() -> None:
    desk = Desk()
    desk.engine.nan = 28
    task = asyncio.ensure_future(desk.dispatcher.generate([request((28, END)), request()]))
    await desk.step(5)
    assert not task.done()
    await desk.step(20)
    with pytest.raises(EngineFailure, match="not finite"):
        await task
    assert desk.dispatcher.open_requests == 0


async def test_a_deadline_is_an_error_of_its_own() -> None:
    desk = Desk()
    task = asyncio.ensure_future(desk.dispatcher.generate([request(deadline=0.0)]))
    await desk.step()
    with pytest.raises(DeadlinePassed):
        await task

    async def read() -> None:
        async for _ in desk.dispatcher.stream(request(deadline=0.0)):
            pass

    streaming = asyncio.ensure_future(read())
    await desk.step()
    with pytest.raises(DeadlinePassed):
        await streaming


async def test_when_the_loop_stops_who_waits_and_who_comes_later_is_told() -> None:
    desk = Desk()
    waiting = asyncio.ensure_future(desk.dispatcher.generate([request(), request()]))
    await desk.step()
    desk.loop.close()
    with pytest.raises(EngineStopped):
        await waiting
    with pytest.raises(EngineStopped):
        await desk.dispatcher.generate([request()])
    assert desk.dispatcher.open_requests == 0


async def test_an_engine_that_dies_tells_pairs_too_whatever_they_wait_for() -> None:
    desk = Desk()
    calls = [desk.dispatcher.generate([request()]), desk.dispatcher.score([pair()] * 200, admitted=True)]
    waiting = [asyncio.ensure_future(call) for call in calls]
    await desk.step()
    desk.engine.out_of_memory = True
    with pytest.raises(MemoryError):
        run(desk.loop)
    for call in waiting:
        with pytest.raises(EngineStopped):
            await call
    assert desk.dispatcher.open_requests == 0


async def test_an_engine_that_loses_a_score_loses_no_caller() -> None:
    desk = Desk()
    score = desk.engine.score
    desk.engine.score = lambda pairs: score(pairs)[1:]  # type: ignore[method-assign]
    waiting = asyncio.ensure_future(desk.dispatcher.score([pair()] * 2))
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="zip"):
        run(desk.loop)
    with pytest.raises(EngineStopped):
        await waiting


async def test_ids_are_never_used_twice() -> None:
    desk = Desk()
    tasks = [asyncio.ensure_future(desk.dispatcher.generate([request(most=1)] * 2)) for _ in range(4)]
    await desk.step(6)
    results = [result for task in tasks for result in await task]
    assert sorted(result.request_id for result in results) == list(range(1, 9))
    assert {result.reason for result in results} == {FinishReason.LENGTH}


async def test_pairs_are_answered_in_their_order_beside_requests() -> None:
    desk = Desk()
    generating = asyncio.ensure_future(desk.dispatcher.generate([request(most=4)]))
    scoring = asyncio.ensure_future(desk.dispatcher.score([pair(14), pair(28), pair()]))
    assert await desk.dispatcher.score([]) == []
    await desk.step()
    assert desk.dispatcher.open_requests == 4  # the encoder has had its turn
    assert not scoring.done()
    await desk.step()
    assert [len(found.log_probs) for found in await scoring] == [2, 2, 1]
    assert [found.log_probs for found in await scoring] == [
        scores(SOURCE, (START,), tokens) for tokens in ((14, END), (28, END), (END,))
    ]
    assert not generating.done()
    await desk.step(4)
    assert len((await generating)[0].token_ids) == 4
    assert desk.dispatcher.open_requests == 0


async def test_pairs_enter_like_requests_but_for_those_that_were_let_in_before() -> None:
    desk = Desk(places=2)
    with pytest.raises(QueueFull):
        await desk.dispatcher.score([pair()] * 3)
    task = asyncio.ensure_future(desk.dispatcher.score([pair()] * 3, admitted=True))
    await asyncio.sleep(0)
    assert desk.dispatcher.open_requests == 3
    with pytest.raises(QueueFull):
        await desk.dispatcher.generate([request()])
    await desk.step()
    assert len(await task) == 3
    assert desk.dispatcher.open_requests == 0


async def test_pairs_have_the_same_errors_as_requests() -> None:
    desk = Desk()
    desk.engine.poison = 28
    late = asyncio.ensure_future(desk.dispatcher.score([replace(pair(), deadline=0.0)]))
    bad = asyncio.ensure_future(desk.dispatcher.score([pair(), replace(pair(), pair=Pair((28, END), (START, END), 1))]))
    gone = asyncio.ensure_future(desk.dispatcher.score([pair()] * 2))
    await asyncio.sleep(0)
    gone.cancel()
    await desk.step(5)
    with pytest.raises(DeadlinePassed):
        await late
    with pytest.raises(EngineFailure, match="the scorer failed"):
        await bad
    assert gone.cancelled()
    assert desk.dispatcher.open_requests == 0
    waiting = asyncio.ensure_future(desk.dispatcher.score([pair()]))
    await asyncio.sleep(0)
    desk.loop.close()
    for call in (waiting, desk.dispatcher.score([pair()])):
        with pytest.raises(EngineStopped):
            await call
    assert desk.dispatcher.open_requests == 0
    assert desk.dispatcher._callers == {}


def test_publishing_to_a_closed_event_loop_is_no_error() -> None:
    async def make() -> Desk:
        return Desk()

    desk = asyncio.run(make())
    desk.loop.submit([Request(1, SOURCE, (START,), SearchSettings(END, 1))])
    desk.loop.step()
    del desk
    gc.collect()
