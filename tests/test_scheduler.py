"""Who runs when, asserted on steps and slots."""

import pytest

from arithmetic_engine import COST, END, START, answer
from hand_loop import HandLoop, make_limits
from seqserve_server.capacity import Capacity
from seqserve_server.decoding.choice import Choice
from seqserve_server.engine import Move, Release
from seqserve_server.request import Event, Failed, Finished, FinishReason, Request, TokensChosen
from seqserve_server.scheduler import Scheduler

SHORT = [27, END]  # sums to 28: 1, the end token, comes first
ENDLESS = [28, END]  # sums to 29: repeats the start until its limit


def make_scheduler(**limits: int) -> Scheduler:
    return Scheduler(make_limits(**limits), END)


def request(number: int, source: tuple[int, ...] = (5, END), max_new_tokens: int = 4, **options: float) -> Request:
    return Request(number, source, (START,), max_new_tokens, **options)  # type: ignore[arg-type]


def advance(scheduler: Scheduler) -> list[Event]:
    return scheduler.apply(Choice([9] * scheduler.running, [-1.0] * scheduler.running), 0.0)


def test_the_pencil_example_of_the_engine_comes_out_of_the_loop() -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END])
    hand.run()
    event = hand.finished(number)
    assert event.token_ids == [14, 26, 9, 21, 4, 16, 28, 11, 23, 6, 18]
    assert event.reason is FinishReason.EOS
    assert event.log_probs == [-each / 128 for each in (15, 27, 10, 22, 5, 17, 29, 12, 24, 7, 19, 2)]
    assert event.score == sum(event.log_probs) / 12


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    hand = HandLoop(make_limits(max_rows=2))
    for limit in (9, 3, 5, 2, 7):
        hand.submit(ENDLESS, limit)
    admitted: list[int] = []
    while len(hand.ended) < 5:
        hand.step()
        known = {*hand.ended, *hand.scheduler.running_ids()}
        admitted += sorted(known - set(admitted))
    assert admitted == [0, 1, 2, 3, 4]


def test_a_waiting_request_takes_the_slot_of_one_that_ended_without_a_move() -> None:
    scheduler = make_scheduler(max_rows=2)
    for number in range(3):
        scheduler.submit(request(number, max_new_tokens=1 if number == 0 else 9))
    assert [source.slot for batch in scheduler.plan(0).encode for source in batch] == [0, 1]
    assert [event.request_id for event in advance(scheduler) if isinstance(event, Finished)] == [0]
    plan = scheduler.plan(0)
    assert plan.release == [Release(0, 2, 2)]
    assert [source.slot for batch in plan.encode for source in batch] == [0]
    assert plan.moves == []
    assert (plan.tokens, plan.positions) == ([START, 9], [0, 1])
    assert scheduler.request_in(0) == 2


def test_rows_from_the_end_fill_the_holes_that_nobody_takes() -> None:
    scheduler = make_scheduler()
    for number, limit in enumerate((1, 9, 1, 9, 9)):
        scheduler.submit(request(number, (5,) * (number + 1), limit))
    scheduler.plan(0)
    advance(scheduler)
    plan = scheduler.plan(0)
    assert plan.release == [Release(0, 2, 1), Release(2, 2, 3)]
    assert plan.moves == [Move(4, 0, 1, 5), Move(3, 2, 1, 4)]
    assert [scheduler.request_in(slot) for slot in range(4)] == [4, 1, 3, None]
    assert plan.positions == [1, 1, 1]


def test_a_hole_at_the_end_needs_no_move() -> None:
    scheduler = make_scheduler()
    for number, limit in enumerate((9, 1)):
        scheduler.submit(request(number, max_new_tokens=limit))
    scheduler.plan(0)
    advance(scheduler)
    plan = scheduler.plan(0)
    assert (plan.moves, len(plan.release), plan.tokens) == ([], 1, [9])


def test_no_more_rows_run_than_allowed() -> None:
    hand = HandLoop(make_limits(max_rows=3))
    for _ in range(10):
        hand.submit(SHORT)
    hand.run()
    assert max(hand.engine.steps) == 3
    assert len(hand.ended) == 10


def test_encoder_work_between_two_steps_is_bounded() -> None:
    scheduler = make_scheduler(encode_tokens=10)
    for number in range(6):
        scheduler.submit(request(number, (5, 5, 5, END)))
    assert sum(len(batch) for batch in scheduler.plan(0).encode) == 2
    advance(scheduler)
    assert sum(len(batch) for batch in scheduler.plan(0).encode) == 2


def test_a_source_over_the_encoder_budget_goes_alone() -> None:
    scheduler = make_scheduler(encode_tokens=10)
    scheduler.submit(request(0, (5,) * 50))
    scheduler.submit(request(1, (5,)))
    assert [len(source.token_ids) for batch in scheduler.plan(0).encode for source in batch] == [50]
    advance(scheduler)
    assert [len(source.token_ids) for batch in scheduler.plan(0).encode for source in batch] == [1]


def test_encoder_batches_hold_similar_lengths_and_every_source_once() -> None:
    scheduler = make_scheduler()
    lengths = [100, 1, 16, 33, 17, 64, 2, 99]
    for number, length in enumerate(lengths):
        scheduler.submit(request(number, (5,) * length))
    batches = [[len(source.token_ids) for source in batch] for batch in scheduler.plan(0).encode]
    assert batches == [[1, 2, 16, 17], [33, 64], [99, 100]]


def test_the_byte_budget_holds_back_what_could_outgrow_it_later() -> None:
    budget = COST.bytes_of(Capacity(8, 64, 32))
    scheduler = make_scheduler(cache_bytes=budget)
    for number in range(12):
        scheduler.submit(request(number, max_new_tokens=64))
    plan = scheduler.plan(0)
    assert len(plan.tokens) == 8  # a ninth row would need sixteen, at 64 positions each: twice the budget
    assert plan.need == Capacity(8, 1, 2)
    assert scheduler.waiting == 4


def test_a_large_request_waits_for_room_and_is_not_overtaken_by_small_ones() -> None:
    hand = HandLoop(make_limits(cache_bytes=COST.bytes_of(Capacity(8, 64, 32))))
    small = [hand.submit(ENDLESS, 20) for _ in range(8)]
    large = hand.submit(ENDLESS, 64)
    late = [hand.submit(ENDLESS, 2) for _ in range(3)]
    hand.run()
    ends = list(hand.ended)
    assert ends.index(large) > ends.index(small[0])
    for number in late:
        admitted, before = hand.finished(number).times.admitted, hand.finished(large).times.admitted
        assert admitted is not None
        assert before is not None
        assert admitted >= before


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


def test_a_deadline_ends_a_running_request_with_what_it_has_and_frees_its_slot_at_once() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    first = hand.submit(ENDLESS, 40, deadline=5.0)
    second = hand.submit([5, END])
    for now in (1.0, 2.0, 3.0):
        hand.now = now
        hand.step()
    hand.now = 5.0
    hand.step()
    event = hand.finished(first)
    assert (event.reason, event.token_ids) == (FinishReason.DEADLINE, [START] * 3)
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


def test_a_cancelled_request_ends_once_and_frees_its_slot_at_the_next_plan() -> None:
    scheduler = make_scheduler(max_rows=1)
    scheduler.submit(request(0))
    scheduler.submit(request(1))
    scheduler.plan(0)
    assert [event.request_id for event in scheduler.cancel(0, 1.0)] == [0]
    assert scheduler.cancel(0, 1.0) == []
    assert scheduler.cancel(99, 1.0) == []
    plan = scheduler.plan(1)
    assert plan.release == [Release(0, 1, 2)]
    assert scheduler.request_in(0) == 1


def test_a_request_cancelled_in_the_queue_never_reaches_the_engine() -> None:
    hand = HandLoop(make_limits(max_rows=1))
    hand.submit(ENDLESS, 3)
    number = hand.submit([9, END])
    hand.step()
    hand.cancel(number)
    hand.run()
    assert hand.finished(number).reason is FinishReason.CANCELLED
    assert [[9, END]] not in hand.engine.encoded


@pytest.mark.parametrize("least", [1, 12, 13, 20, 39, 40])
def test_the_end_token_does_not_come_before_that_many_others(least: int) -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END], 40, least)  # ends as the 12th by itself
    other = hand.submit([5, 6, END], 40)
    hand.run()
    event = hand.finished(number)
    assert len(event.token_ids) >= least
    assert (event.token_ids, event.log_probs, event.reason) == answer([5, 6, END], 40, least)
    assert len(hand.finished(other).token_ids) == 11


def test_max_new_tokens_counts_the_end_token() -> None:
    hand = HandLoop()
    exact, short = hand.submit([5, 6, END], 12), hand.submit([5, 6, END], 11)
    hand.run()
    assert hand.finished(exact).reason is FinishReason.EOS
    assert hand.finished(short).reason is FinishReason.LENGTH
    assert len(hand.finished(short).log_probs) == 11


def test_a_request_that_arrives_while_32_run_gets_its_first_token_at_the_very_next_step() -> None:
    hand = HandLoop()
    running = [hand.submit([number % 28, 28, END], 40, min_new_tokens=39) for number in range(32)]
    for _ in range(5):
        hand.step()
    assert hand.engine.steps == [32] * 5
    late = hand.submit([5, 6, END], stream=True)
    assert hand.step() == [TokensChosen(late, [14])]
    assert hand.engine.steps[-1] == 33
    assert not set(running) & set(hand.ended)


def test_tokens_are_published_for_streams_only_and_without_the_end_token() -> None:
    hand = HandLoop()
    hand.submit([5, 6, END])
    stream = hand.submit([5, 6, END], stream=True)
    hand.run()
    chosen = [event for event in hand.events if isinstance(event, TokensChosen)]
    assert {event.request_id for event in chosen} == {stream}
    assert [event.token_ids for event in chosen] == [[t] for t in [14, 26, 9, 21, 4, 16, 28, 11, 23, 6, 18]]


def test_a_value_that_is_not_finite_fails_its_row_alone() -> None:
    scheduler = make_scheduler()
    for number in range(3):
        scheduler.submit(request(number))
    scheduler.plan(0)
    events = scheduler.apply(Choice([9, 9, 9], [-1.0, float("nan"), -1.0]), 0.0)
    assert [type(event) for event in events] == [Failed]
    assert scheduler.running_ids() == [0, 2]
    assert scheduler.plan(0).release == [Release(1, 1, 2)]


def test_everything_ends_when_the_engine_is_gone() -> None:
    scheduler = make_scheduler(max_rows=1)
    for number in range(3):
        scheduler.submit(request(number))
    scheduler.plan(0)
    events = scheduler.fail_all("gone")
    assert sorted(event.request_id for event in events) == [0, 1, 2]
    assert (scheduler.waiting, scheduler.running) == (0, 0)
    assert scheduler.fail_all("gone") == []


def test_the_scheduler_shows_its_state() -> None:
    scheduler = make_scheduler(max_rows=1)
    scheduler.submit(request(0))
    scheduler.submit(request(1))
    scheduler.plan(0)
    assert repr(scheduler) == "Scheduler(waiting=1, running=1, slots=1)"


def test_an_idle_scheduler_has_nothing_left_to_clean_up() -> None:
    hand = HandLoop()
    hand.submit([5, END], 1)
    hand.step()
    assert not hand.scheduler.idle  # the slot is still to be cleared
    hand.step()
    assert hand.scheduler.idle
    assert hand.engine.occupied == []
