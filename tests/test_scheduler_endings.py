"""How requests end before they would by themselves: deadlines, cancels, values that are not finite."""

from arithmetic_engine import END
from hand_loop import HandLoop, make_limits
from scheduling import ENDLESS, make_scheduler, request, rows_of
from seqserve_server.engine import PlaceRelease, RowRelease
from seqserve_server.placement import Place
from seqserve_server.request import Failed, FinishReason


def test_a_deadline_in_the_queue_ends_a_request_before_it_starts() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    hand.submit(ENDLESS, 40)
    late = hand.submit([7, END], deadline=2.0)
    hand.step()
    hand.now = 2.0
    hand.step()
    event = hand.finished(late)
    assert (event.reason, event.token_ids, event.times.admitted) == (FinishReason.DEADLINE, [], None)
    hand.run()
    assert [[7, END]] not in hand.engine.encoded


def test_a_deadline_ends_a_running_request_with_what_it_has_and_frees_its_row_at_once() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    first = hand.submit(ENDLESS, 40, deadline=5.0)
    second = hand.submit([5, END])
    for now in (1.0, 2.0, 3.0):
        hand.now = now
        hand.step()
    hand.now = 5.0
    hand.step()
    event = hand.finished(first)
    assert (event.reason, event.token_ids) == (FinishReason.DEADLINE, [0] * 3)
    assert hand.scheduler.running_ids() == [second]
    assert hand.engine.steps == [1, 1, 1, 1]


def test_a_request_that_ended_in_time_is_not_ended_again_by_its_deadline() -> None:
    hand = HandLoop()
    number = hand.submit([5, END], 2, deadline=5.0)
    hand.run()
    hand.now = 6.0
    assert hand.step() == []
    assert hand.finished(number).reason is FinishReason.LENGTH


def test_deadlines_of_ended_requests_are_forgotten() -> None:
    scheduler = make_scheduler()
    for number in range(10_000):
        scheduler.submit(request(number, deadline=1e9))
        scheduler.cancel(number, 0.0)
    assert len(scheduler._deadlines) < 200


def test_a_cancelled_request_ends_once_and_frees_its_row_at_the_next_plan() -> None:
    scheduler = make_scheduler(max_rows=1)
    scheduler.submit(request(0))
    scheduler.submit(request(1))
    scheduler.plan(0)
    assert [event.request_id for event in scheduler.cancel(0, 1.0)] == [0]
    assert scheduler.cancel(0, 1.0) == []
    assert scheduler.cancel(99, 1.0) == []
    plan = scheduler.plan(1)
    assert plan.changes.release_rows == [RowRelease(0, 1)]
    assert plan.changes.release_places == [PlaceRelease(Place(0, 0), 2)]
    assert rows_of(scheduler, 1) == [0]


def test_a_request_cancelled_in_the_queue_never_reaches_the_engine() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    hand.submit(ENDLESS, 3)
    number = hand.submit([9, END])
    hand.step()
    hand.cancel(number)
    hand.run()
    assert hand.finished(number).reason is FinishReason.CANCELLED
    assert [[9, END]] not in hand.engine.encoded


def test_a_value_that_is_not_finite_fails_its_row_alone() -> None:
    scheduler = make_scheduler()
    for number in range(3):
        scheduler.submit(request(number))
    scheduler.plan(0)
    applied = scheduler.apply([[9, 8]] * 3, [[-1.0, -2.0], [float("nan")] * 2, [-1.0, -2.0]], None, 0.0)
    assert [type(event) for event in applied.events] == [Failed]
    assert (applied.tokens, applied.joined) == (2, 2)
    assert scheduler.running_ids() == [0, 2]
    assert scheduler.plan(0).changes.release_rows == [RowRelease(1, 1)]


def test_everything_ends_when_the_engine_is_gone() -> None:
    scheduler = make_scheduler(max_rows=1)
    for number in range(3):
        scheduler.submit(request(number))
    scheduler.plan(0)
    events = scheduler.fail_all("gone")
    assert sorted(event.request_id for event in events) == [0, 1, 2]
    assert (scheduler.waiting, scheduler.running) == (0, 0)
    assert scheduler.fail_all("gone") == []
