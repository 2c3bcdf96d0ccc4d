"""Who runs when, asserted on steps, rows and places."""

import random
from dataclasses import replace

import pytest

from arithmetic_engine import COST, END, START, answer
from hand_loop import HandLoop, make_limits
from scheduling import ENDLESS, SHORT, advance, make_scheduler, request, rows_of
from seqserve_server.capacity import Capacity
from seqserve_server.engine import PlaceMove, PlaceRelease, RowMove, RowRelease
from seqserve_server.placement import Place
from seqserve_server.request import Finished, FinishReason, TokensChosen
from seqserve_server.scheduler import Scheduler


def test_the_pencil_example_of_the_engine_comes_out_of_the_loop() -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END])
    hand.run()
    event = hand.finished(number)
    assert event.token_ids == [14, 28, 27, 25, 21, 13, 26, 23, 17, 5, 10, 20, 11, 22, 15]
    assert event.reason is FinishReason.EOS
    assert event.log_probs == [-each / 128 for each in [*event.token_ids, END]]
    assert event.score == sum(event.log_probs) / 16


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


def test_a_waiting_request_takes_row_and_place_of_one_that_ended_without_a_move() -> None:
    scheduler = make_scheduler(max_rows=2)
    for number in range(3):
        scheduler.submit(request(number, max_new_tokens=1 if number == 0 else 9))
    assert [source.row for batch in scheduler.plan(0).encode for source in batch] == [0, 1]
    assert [event.request_id for event in advance(scheduler) if isinstance(event, Finished)] == [0]
    plan = scheduler.plan(0)
    assert plan.changes.release_rows == [RowRelease(0, 1)]
    assert plan.changes.release_places == [PlaceRelease(Place(0, 0), 2)]
    assert [(source.row, source.places) for batch in plan.encode for source in batch] == [(0, (Place(0, 0),))]
    assert (plan.changes.move_rows, plan.changes.move_places) == ([], [])
    assert (plan.tokens, plan.positions) == ([START, 9], [0, 1])
    assert rows_of(scheduler, 2) == [0]


def test_rows_from_the_end_fill_the_holes_that_nobody_takes() -> None:
    scheduler = make_scheduler()
    for number, limit in enumerate((1, 9, 1, 9, 9)):
        scheduler.submit(request(number, (5,) * (number + 1), limit))
    scheduler.plan(0)
    advance(scheduler)
    plan = scheduler.plan(0)
    assert plan.changes.release_rows == [RowRelease(0, 1), RowRelease(2, 1)]
    assert plan.changes.release_places == [PlaceRelease(Place(0, 0), 1), PlaceRelease(Place(0, 2), 3)]
    assert plan.changes.move_rows == [RowMove(4, 0, 1), RowMove(3, 2, 1)]
    assert plan.changes.move_places == [PlaceMove(Place(0, 4), Place(0, 0), 5), PlaceMove(Place(0, 3), Place(0, 2), 4)]
    assert [rows_of(scheduler, number) for number in (4, 1, 3)] == [[0], [1], [2]]
    assert plan.positions == [1, 1, 1]


def test_a_hole_at_the_end_needs_no_move() -> None:
    scheduler = make_scheduler()
    for number, limit in enumerate((9, 1)):
        scheduler.submit(request(number, max_new_tokens=limit))
    scheduler.plan(0)
    advance(scheduler)
    plan = scheduler.plan(0)
    assert (plan.changes.move_rows, plan.changes.release_rows, plan.tokens) == ([], [RowRelease(1, 1)], [9])


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
    scheduler = make_scheduler(cache_bytes=COST.bytes_of(Capacity(8, 64, 32, (8, 0, 0))))
    for number in range(12):
        scheduler.submit(request(number, max_new_tokens=64))
    plan = scheduler.plan(0)
    assert len(plan.tokens) == 8  # a ninth row would need sixteen, at 64 positions each: twice the budget
    assert plan.need == Capacity(8, 1, 2, (8, 0, 0))
    assert scheduler.waiting == 4


def test_a_large_request_waits_for_room_and_is_not_overtaken_by_small_ones() -> None:
    hand = HandLoop(make_limits(cache_bytes=COST.bytes_of(Capacity(8, 64, 32, (8, 0, 0)))))
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


@pytest.mark.parametrize("least", [1, 15, 16, 20, 39, 40])
def test_the_end_token_does_not_come_before_that_many_others(least: int) -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END], 40, least)  # ends as the 16th by itself
    other = hand.submit([5, 6, END], 40)
    hand.run()
    event = hand.finished(number)
    assert len(event.token_ids) >= least
    assert (event.token_ids, event.log_probs, event.reason) == answer([5, 6, END], 40, least)
    assert len(hand.finished(other).token_ids) == 15


def test_max_new_tokens_counts_the_end_token() -> None:
    hand = HandLoop()
    exact, short = hand.submit([5, 6, END], 16), hand.submit([5, 6, END], 15)
    hand.run()
    assert hand.finished(exact).reason is FinishReason.EOS
    assert hand.finished(short).reason is FinishReason.LENGTH
    assert len(hand.finished(short).log_probs) == 15


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
    assert [event.token_ids for event in chosen] == [[token] for token in answer([5, 6, END], 40)[0]]


def test_the_scheduler_shows_its_state() -> None:
    scheduler = make_scheduler(max_rows=1)
    scheduler.submit(request(0))
    scheduler.submit(request(1))
    scheduler.plan(0)
    assert repr(scheduler) == "Scheduler(waiting=1, running=1, rows=1)"


def test_an_idle_scheduler_has_nothing_left_to_clean_up() -> None:
    hand = HandLoop()
    hand.submit([5, END], 1)
    hand.step()
    assert not hand.scheduler.idle  # its row is still to be cleared
    hand.step()
    assert hand.scheduler.idle
    assert hand.engine.occupied == []


def test_greedy_rows_have_the_places_of_their_own_number_whoever_comes_and_goes() -> None:
    """Graphs without places of several widths read no other."""
    scheduler = Scheduler(replace(make_limits(max_rows=7), widths=(1,)))
    rng = random.Random(0)
    for number in range(300):
        scheduler.submit(request(number, (5,) * rng.randint(1, 9), rng.randint(1, 8)))
        if rng.random() < 0.3:
            scheduler.cancel(rng.randrange(number + 1), 0.0)
        plan = scheduler.plan(0)
        assert list(plan.layout.places) == list(range(len(plan.tokens)))
        moves = zip(plan.changes.move_rows, plan.changes.move_places, strict=True)
        assert all(one.destination == other.destination.index for one, other in moves)
        advance(scheduler)
