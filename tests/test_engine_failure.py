"""An engine that fails: only those it could not serve are told so, and everybody else gets the right answer."""

import asyncio
import threading

import grpc
import pytest

from arithmetic_engine import END, START, ArithmeticEngine
from hand_loop import HandLoop, make_limits
from refusals import drained, refusal
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import Changes
from seqserve_server.engine_thread import Runner
from seqserve_server.errors import StartupError
from seqserve_server.loop import STOPPED, Loop, StepFacts
from seqserve_server.request import Event, Failed, Finished, FinishReason, Request, TokensChosen
from seqserve_server.scheduler import Scheduler
from seqserve_server.server import running_server
from seqserve_server.warm_up import warm_up
from serving import PENCIL_TEXT, ask, ask_stream, ids, make_config, make_model, serving

POISON, NAN = 27, 26


def failures(hand: HandLoop) -> dict[int, str]:
    return {number: event.message for number, event in hand.ended.items() if isinstance(event, Failed)}


def test_a_failing_encoder_fails_the_one_source_and_its_mates_and_rows_that_run_go_on() -> None:
    hand = HandLoop()
    hand.engine.poison = POISON
    running = hand.submit([5, 6, END])
    hand.step()
    bad, mate = hand.submit([POISON, END]), hand.submit([9, 8, END])
    longer = hand.submit([*[3] * 40, END])  # another encoder batch
    hand.run()
    assert failures(hand) == {bad: "the encoder failed"}
    assert {hand.finished(number).reason for number in (running, mate)} == {FinishReason.EOS}
    assert hand.finished(longer).reason in (FinishReason.EOS, FinishReason.LENGTH)


def test_rows_that_survive_a_failing_encoder_batch_count_as_joining_when_they_get_their_first_token() -> None:
    hand = HandLoop()
    hand.engine.poison = POISON
    hand.submit([POISON, END])
    hand.submit([*[3] * 40, END])  # encoded in the iteration whose step does not happen
    hand.run()
    steps = [facts for facts in hand.facts if facts.rows]
    assert [facts.joined for facts in steps] == [1] + [0] * (len(steps) - 1)


def test_after_a_failing_encoder_rows_and_places_are_clean_for_the_next() -> None:
    hand = HandLoop(make_limits(max_rows=2))
    hand.engine.poison = POISON
    for _ in range(20):
        hand.submit([POISON, END])
        hand.submit([5, 6, END])
    hand.run()
    assert hand.engine.occupied == []


def test_a_step_that_fails_once_costs_nobody_anything() -> None:
    hand = HandLoop(make_limits(max_rows=3))
    hand.engine.broken_steps = {2}
    numbers = [hand.submit([number + 3, 6, END], stream=True) for number in range(5)]
    hand.run()
    assert {hand.finished(number).reason for number in numbers} == {FinishReason.EOS}


def test_a_step_that_fails_in_all_its_parts_fails_who_was_in_it_and_the_loop_goes_on() -> None:
    hand = HandLoop(make_limits(max_rows=3))
    hand.engine.broken_steps = set(range(2, 2 + 5))  # the whole, and of three requests one, two, and each of the two
    numbers = [hand.submit([number + 3, 6, END], stream=True) for number in range(5)]
    hand.run()
    assert failures(hand) == dict.fromkeys(numbers[:3], "the decoder failed")
    assert [hand.finished(number).reason for number in numbers[3:]] == [FinishReason.EOS] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_row_that_is_not_a_number_fails_alone_and_is_never_shown(stream: bool) -> None:
    hand = HandLoop()
    hand.engine.nan = NAN
    before, bad, after = (hand.submit([token, 6, END], stream=stream) for token in (5, NAN, 7))
    hand.run()
    assert failures(hand) == {bad: "the model produced a value that is not finite"}
    shown = [event.token_ids for event in hand.events if isinstance(event, TokensChosen) and event.request_id == bad]
    assert len(shown) == (2 if stream else 0)
    assert {hand.finished(number).reason for number in (before, after)} == {FinishReason.EOS}
    assert sum(facts.rows - facts.tokens for facts in hand.facts) == 1


def test_what_a_failed_request_held_is_clean_for_its_next_owner_a_hundred_times() -> None:
    hand = HandLoop(make_limits(max_rows=2))
    hand.engine.nan = NAN
    for _ in range(100):
        hand.submit([NAN, END], 4)
        hand.submit([5, 6, END], 4)
    hand.run()
    assert len(failures(hand)) == 100


class Grave(ArithmeticEngine):
    """Dies when it should clear a row, where the loop survives nothing."""

    def change(self, changes: Changes) -> None:
        if changes.release_rows:
            raise SystemError("a broken engine at /secret/path")
        super().change(changes)


def request(number: int, most: int, source: tuple[int, ...] = (5, 6, END), deadline: float | None = None) -> Request:
    return Request(number, source, (START,), SearchSettings(END, most), deadline=deadline)


def make_loop(engine: ArithmeticEngine) -> tuple[Loop, list[Event]]:
    events: list[Event] = []
    limits = make_limits(max_rows=2)
    return Loop(engine, Scheduler(limits), events.extend), events


def run(loop: Loop) -> None:
    """On this thread, to the end."""
    runner = Runner()
    runner.add(loop)
    runner.run()


def test_when_the_engine_dies_everybody_is_told_just_once_even_who_ended_in_that_step() -> None:
    loop, events = make_loop(Grave())
    loop.submit([request(number, 3 if number else 1) for number in range(6)])
    loop.submit([request(6, 3, deadline=0.0), request(7, 3)])
    loop.cancel([7])
    with pytest.raises(SystemError):
        run(loop)
    ends = {event.request_id: event for event in events}
    assert len(events) == len(ends) == 8
    assert isinstance(ends[0], Finished)
    assert isinstance(ends[6], Finished)
    assert isinstance(ends[7], Finished)
    assert all(ends[number] == Failed(number, STOPPED, engine_stopped=True) for number in range(1, 6))


def test_the_server_knows_that_the_engine_died_before_any_caller_does() -> None:
    order: list[str] = []

    def publish(events: list[Event]) -> None:
        order.extend("caller" for event in events if isinstance(event, Failed))

    loop = Loop(Grave(), Scheduler(make_limits(max_rows=2)), publish)
    loop.submit([request(number, 3) for number in range(3)])
    runner = Runner()
    runner.add(loop)
    with pytest.raises(SystemError):
        runner.run(lambda: order.append("server"))
    assert order == ["server", "caller"]


def test_callers_are_told_even_where_the_server_cannot_be() -> None:
    loop, events = make_loop(Grave())
    loop.submit([request(0, 3)])
    runner = Runner()
    runner.add(loop)

    def broken() -> None:
        raise RuntimeError("event loop is closed")

    with pytest.raises(RuntimeError, match="event loop is closed"):
        runner.run(broken)
    assert [event.request_id for event in events] == [0]


def test_a_deadline_that_passes_in_the_step_in_which_the_engine_dies_is_still_told() -> None:
    now = [0.0]
    events: list[Event] = []
    loop = Loop(Grave(), Scheduler(make_limits(max_rows=2)), events.extend, clock=lambda: now[0])
    loop.submit([request(0, 1), request(1, 9), request(2, 9, deadline=1.0)])
    loop.step()
    now[0] = 2.0
    with pytest.raises(SystemError):
        run(loop)
    assert sorted(event.request_id for event in events) == [0, 1, 2]


def test_an_observer_that_raises_costs_nobody_a_terminal_event() -> None:
    def observe(facts: StepFacts, events: list[Event]) -> None:
        raise ZeroDivisionError("a broken metric")

    events: list[Event] = []
    loop = Loop(ArithmeticEngine(), Scheduler(make_limits(max_rows=1)), events.extend, observe)
    loop.submit([request(number, 3) for number in range(3)])
    with pytest.raises(ZeroDivisionError):
        run(loop)
    assert sorted(event.request_id for event in events) == [0, 1, 2]
    assert all(event == Failed(event.request_id, STOPPED, engine_stopped=True) for event in events)


def test_who_comes_after_the_engine_stopped_is_told_at_once() -> None:
    loop, events = make_loop(ArithmeticEngine())
    runner = Runner()
    runner.add(loop)
    runner.call(runner.stop)
    runner.run()
    loop.submit([request(1, 3), request(2, 3)])
    assert events == [Failed(1, STOPPED, engine_stopped=True), Failed(2, STOPPED, engine_stopped=True)]


def test_a_stop_is_never_slept_through() -> None:
    for _ in range(200):
        loop, _ = make_loop(ArithmeticEngine())
        runner = Runner()
        runner.add(loop)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        runner.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()


async def test_a_failing_encoder_is_an_internal_error_that_gives_nothing_away() -> None:
    engine = ArithmeticEngine()
    engine.poison = POISON
    async with serving(engine) as served:
        error = await refusal(served.stub.Generate(ask(ids(POISON))))
        streamed = await refusal(drained(served.stub.GenerateStream(ask_stream(ids(POISON)))))
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        assert served.inside == 0
        assert not served.server.failed.is_set()
    for each in (error, streamed):
        assert (each.code, each.reason, each.message) == (
            grpc.StatusCode.INTERNAL, "ENGINE_FAILURE", "the encoder failed"
        )


async def test_a_row_that_is_not_a_number_is_an_internal_error_and_its_neighbours_are_unchanged() -> None:
    engine = ArithmeticEngine()
    engine.nan = NAN
    async with serving(engine) as served:
        engine.hold()
        good = asyncio.ensure_future(served.stub.Generate(ask("c d")))
        bad = asyncio.ensure_future(refusal(served.stub.Generate(ask(ids(NAN)))))
        await served.until(lambda: served.inside == 2)
        engine.allow()
        assert (await good).results[0].hypotheses[0].text == PENCIL_TEXT
        error = await bad
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILURE")


async def test_when_the_engine_thread_dies_every_caller_is_told_and_the_server_knows() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=2) as served:
        engine.hold()
        unary = [asyncio.ensure_future(refusal(served.stub.Generate(ask("c d", "c d")))) for _ in range(3)]
        stream = asyncio.ensure_future(refusal(drained(served.stub.GenerateStream(ask_stream("c d")))))
        await served.until(lambda: served.inside == 7)
        engine.out_of_memory = True
        engine.allow()
        errors = await asyncio.gather(*unary, stream)
        await served.server.failed.wait()
        late = await refusal(served.stub.Generate(ask("c d")))
        assert served.inside == 0
    assert {(error.code, error.reason) for error in (*errors, late)} == {
        (grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED")
    }


def test_a_model_that_cannot_decode_is_found_before_it_is_served() -> None:
    engine = ArithmeticEngine()
    engine.poison = END
    with pytest.raises(StartupError, match="warm-up request failed"):
        list(warm_up(make_model(make_config(), engine)))


def test_a_budget_that_holds_no_request_is_named_and_does_not_hang_the_start() -> None:
    engine = ArithmeticEngine()
    model = make_model(make_config(cache_bytes=1 << 16), engine)
    tight = model.__class__(model.description, model.version, None, engine, make_limits(cache_bytes=100))
    with pytest.raises(StartupError, match="--cache-bytes: 100 are too few: one short request needs 3200"):
        list(warm_up(tight))


async def test_a_server_whose_model_does_not_load_leaves_its_ports_free() -> None:
    config = make_config()

    def load(_: object) -> None:
        raise StartupError("no such model")

    for _ in range(2):
        with pytest.raises(StartupError, match="no such model"):
            async with running_server(config, load):  # type: ignore[arg-type]
                raise AssertionError("a server without a model must not start")
