"""Several hypotheses of one request in the batch: which rows they take, what is copied, and where they are moved."""

import pytest

from arithmetic_engine import COST, END, START
from scheduling import ScriptedSearch, advance, applied, make_scheduler, request, rows_of
from seqserve_server.capacity import Capacity
from seqserve_server.decoding import search_of
from seqserve_server.engine import PlaceMove, PlaceRelease, RowCopy, RowMove, RowRelease
from seqserve_server.placement import Place
from seqserve_server.plan import Plan, need_of
from seqserve_server.request import Finished
from seqserve_server.scheduler import Scheduler

FORK = [0, 0, 0, 0]  # the step in which one hypothesis becomes four


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[list[int]]]:
    """By number of beams, the parents of every step; greedy requests are searched as always."""
    steps: dict[int, list[list[int]]] = {}
    monkeypatch.setattr(
        "seqserve_server.scheduler.search_of",
        lambda settings, prompt: (
            ScriptedSearch(steps[settings.beam_size]) if settings.beam_size in steps else search_of(settings, prompt)
        ),
    )
    return steps


def turn(scheduler: Scheduler, now: float = 0.0) -> Plan:
    """What is planned, and a step."""
    plan = scheduler.plan(now)
    applied(scheduler, now)
    return plan


def held(scheduler: Scheduler, number: int) -> list[int]:
    """Rows of a running request, by hypothesis."""
    running = scheduler._running[number]
    return [running.rows[lane] for lane in running.lanes]


def test_a_request_is_admitted_when_all_of_its_beams_have_rows() -> None:
    scheduler = make_scheduler(max_rows=8)
    for number, beams in enumerate((5, 4, 1)):
        scheduler.submit(request(number, beams=beams, max_new_tokens=2))
    turn(scheduler)
    assert scheduler.running_ids() == [0], "four more do not fit, and nobody overtakes"
    turn(scheduler)
    assert scheduler.plan(0).tokens == [START, START]
    assert scheduler.running_ids() == [1, 2]


def test_what_requests_need_together_is_the_sum_of_rows_and_places_and_the_longest_of_lengths() -> None:
    together = [
        request(0, (5,) * 9, 3, beams=12), request(1, (5,) * 2, 7, beams=4, prompt=(START, 8, 9)), request(2, beams=3),
        request(3), request(4, beams=16),
    ]
    assert need_of(together, (1, 4, 8)) == Capacity(12 + 4 + 3 + 1 + 16, 9, 9, (1, 3, 3))
    assert need_of(together[:1], (1,)) == Capacity(12, 3, 9, (12,))
    assert need_of([], (1, 4, 8)) == Capacity.none((1, 4, 8))


def test_memory_is_counted_for_all_rows_and_places_that_a_beam_may_come_to() -> None:
    one = Capacity(8, 32, 32, (8, 1, 0))
    scheduler = make_scheduler(cache_bytes=COST.bytes_of(one) - 1)
    scheduler.submit(request(0, beams=4))
    assert scheduler.plan(0).tokens == [START]
    scheduler.submit(request(1))
    assert scheduler.plan(0).tokens == [START], "a place of its own does not fit beside the beam's"
    roomy = make_scheduler(cache_bytes=COST.bytes_of(one))
    roomy.submit(request(0, beams=4))
    roomy.submit(request(1))
    assert roomy.plan(0).tokens == [START, START]


def test_one_row_becomes_many_after_the_first_choice(script: dict[int, list[list[int]]]) -> None:
    script[4] = [FORK]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=4))
    first = turn(scheduler)
    assert (first.tokens, first.positions, first.copies, first.need.rows) == ([START], [0], [], 1)
    second = scheduler.plan(0)
    assert second.copies == [RowCopy(0, row, 0, 1) for row in (1, 2, 3)]
    assert (second.tokens, second.positions) == ([9, 10, 11, 12], [1] * 4)
    assert second.need == Capacity(4, 2, 2, (0, 1, 0))


def test_the_first_to_continue_a_hypothesis_stays_and_others_are_copied_from_the_last_common_position(
    script: dict[int, list[list[int]]],
) -> None:
    script[3] = [[0, 0, 0], [1, 1, 0], [0, 1, 2], [0, 0, 1], [0, 1, 1], [0, 1, 2]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=3, max_new_tokens=9))
    plans = [turn(scheduler) for _ in range(6)]
    assert [plan.copies for plan in plans] == [
        [],
        [RowCopy(0, 1, 0, 1), RowCopy(0, 2, 0, 1)],
        [RowCopy(1, 2, 1, 2)],  # row 2 knew the first position; its own second is overwritten
        [],
        [RowCopy(1, 0, 1, 4)],  # row 0 parted from row 1 after the first position
        [RowCopy(0, 2, 2, 5)],  # rows 1 and 2 parted after the second, and row 0 has since become like row 1
    ]
    assert held(scheduler, 0) == [1, 0, 2]


def test_hypotheses_that_change_places_in_the_search_change_none_in_memory(
    script: dict[int, list[list[int]]],
) -> None:
    script[2] = [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=2, max_new_tokens=9))
    plans = [turn(scheduler) for _ in range(5)]
    assert [len(plan.copies) for plan in plans] == [0, 1, 0, 0, 0]
    assert plans[2].tokens == [9, 9]
    assert held(scheduler, 0) == [0, 1]


def test_layout_is_the_same_object_until_a_row_or_place_changes(script: dict[int, list[list[int]]]) -> None:
    script[2] = [[0, 0], [0, 0], [0, 1], [0, 1]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=2, max_new_tokens=9))
    layouts = [turn(scheduler).layout for _ in range(4)]
    assert layouts[0] is not layouts[1]
    assert layouts[1] is layouts[2] is layouts[3]
    assert (layouts[1].widths, layouts[1].places, layouts[1].offsets) == ([1, 1], [0, 0], [0, 1])
    scheduler.submit(request(1))
    assert scheduler.plan(0).layout is not layouts[3]


def test_a_hypothesis_that_is_no_more_gives_its_row_away_and_comes_back_with_everything_to_copy(
    script: dict[int, list[list[int]]],
) -> None:
    script[3] = [[0, 0, 0], [2], [0], [0, 0]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=3, max_new_tokens=9))
    turn(scheduler)
    turn(scheduler)
    assert rows_of(scheduler, 0) == [-1, -1, 2]
    plan = turn(scheduler)
    assert plan.changes.release_rows == [RowRelease(0, 2), RowRelease(1, 2)]
    assert plan.changes.move_rows == [RowMove(2, 0, 2)]
    assert plan.copies == []
    assert turn(scheduler).tokens == [9]
    plan = scheduler.plan(0)
    assert plan.copies == [RowCopy(0, 1, 0, 4)]
    assert sorted(rows_of(scheduler, 0)) == [-1, 0, 1]


def test_rows_and_places_are_closed_up_each_for_themselves() -> None:
    scheduler = make_scheduler()
    for number, beams in enumerate((4, 4, 1)):
        scheduler.submit(request(number, (5,) * (number + 1), beams=beams))
    plan = scheduler.plan(0)
    assert [source.places for batch in plan.encode for source in batch] == [
        (Place(1, 0),), (Place(1, 1),), (Place(0, 0),)
    ]
    scheduler.cancel(0, 0.0)
    changes = scheduler.plan(0).changes
    assert changes.release_rows == [RowRelease(0, 1)]
    assert changes.release_places == [PlaceRelease(Place(1, 0), 1)]
    assert changes.move_rows == [RowMove(2, 0, 0)], "the last row is the greedy request's"
    assert changes.move_places == [PlaceMove(Place(1, 1), Place(1, 0), 2)], "the last of these places is the beam's"


def test_the_rows_of_a_beam_need_not_stand_together(script: dict[int, list[list[int]]]) -> None:
    script[4] = [FORK, [0, 1, 2, 3], [0, 1, 2, 3]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, max_new_tokens=2))
    scheduler.submit(request(1, beams=4, max_new_tokens=9))
    scheduler.submit(request(2, max_new_tokens=9))
    turn(scheduler)
    turn(scheduler)
    plan = scheduler.plan(0)
    assert plan.changes.move_rows == [RowMove(5, 0, 2)]
    assert plan.changes.move_places == [PlaceMove(Place(0, 1), Place(0, 0), 2)]
    assert rows_of(scheduler, 1) == [1, 3, 4, 0]
    assert (plan.layout.widths, plan.layout.offsets) == ([1, 1, 0, 1, 1], [3, 0, 0, 1, 2])


def test_a_row_that_waits_to_be_filled_is_not_carried_but_filled_elsewhere(
    script: dict[int, list[list[int]]],
) -> None:
    script[4] = [FORK, [0, 1, 2, 3]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=4, max_new_tokens=9))
    scheduler.submit(request(1, max_new_tokens=1))
    turn(scheduler)
    assert rows_of(scheduler, 0) == [0, 2, 3, 4]
    plan = scheduler.plan(0)
    assert rows_of(scheduler, 0) == [0, 2, 3, 1]
    assert plan.changes.move_rows == []
    assert plan.copies == [RowCopy(0, 2, 0, 1), RowCopy(0, 3, 0, 1), RowCopy(0, 1, 0, 1)]


def test_a_row_that_waits_for_its_end_only_is_carried_with_its_beginning(
    script: dict[int, list[list[int]]],
) -> None:
    script[2] = [[0, 0], [0, 0]]
    scheduler = make_scheduler()
    scheduler.submit(request(0, max_new_tokens=2))
    scheduler.submit(request(1, beams=2, max_new_tokens=9))
    for _ in range(2):
        turn(scheduler)
    plan = scheduler.plan(0)
    assert plan.changes.move_rows == [RowMove(2, 0, 2)]
    assert plan.copies == [RowCopy(1, 0, 1, 2)]


@pytest.mark.parametrize("ending", ["cancel", "deadline", "fail"])
def test_whoever_ends_between_a_choice_and_its_copies_leaves_no_copy_behind(ending: str) -> None:
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=4, max_new_tokens=9, deadline=5.0))
    scheduler.submit(request(1, beams=2, max_new_tokens=9))
    turn(scheduler)
    if ending == "cancel":
        scheduler.cancel(0, 1.0)
    if ending == "fail":
        scheduler.fail([0], "broken")
    plan = scheduler.plan(5.0 if ending == "deadline" else 1.0)
    assert sorted(entry.row for entry in plan.changes.release_rows) == [0, 2, 3, 4]
    assert plan.changes.release_places == [PlaceRelease(Place(1, 0), 2)]
    (copied,) = plan.copies
    assert sorted(rows_of(scheduler, 1)) == [0, 1]
    assert {copied.source, copied.destination} == {0, 1}
    assert len(plan.tokens) == 2


def test_as_many_candidates_are_asked_for_as_the_widest_beam_needs() -> None:
    scheduler = make_scheduler()
    for number, (beams, limit) in enumerate(((12, 1), (4, 2), (1, 3))):
        scheduler.submit(request(number, beams=beams, max_new_tokens=limit))
    assert [turn(scheduler).candidates for _ in range(4)] == [13, 5, 2, 0]


@pytest.mark.parametrize(("beams", "seats"), [
    (1, [(0, 0)]), (2, [(1, 0), (1, 1)]), (4, [(1, each) for each in range(4)]),
    (5, [(2, each) for each in range(5)]), (8, [(2, each) for each in range(8)]),
    (9, [*((2, each) for each in range(8)), (0, 0)]),
    (12, [*((2, each) for each in range(8)), *((1, each) for each in range(4))]),
])
def test_each_hypothesis_has_an_offset_of_its_own_in_its_requests_places(
    beams: int, seats: list[tuple[int, int]]
) -> None:
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=beams))
    turn(scheduler)
    layout = scheduler.plan(0).layout
    assert list(zip(layout.widths, layout.offsets, strict=True)) == seats
    assert layout.places == [0] * beams


def test_a_beam_of_two_places_has_its_source_in_both() -> None:
    scheduler = make_scheduler()
    scheduler.submit(request(0))
    scheduler.submit(request(1, (7, 8, END), beams=12))
    plan = scheduler.plan(0)
    assert [(source.row, source.places) for batch in plan.encode for source in batch] == [
        (0, (Place(0, 0),)), (1, (Place(2, 0), Place(1, 0)))
    ]
    assert plan.need.places == (1, 1, 1)
    scheduler.cancel(1, 0.0)
    assert scheduler.plan(0).changes.release_places == [PlaceRelease(Place(2, 0), 3), PlaceRelease(Place(1, 0), 3)]


def test_when_the_engine_is_gone_a_beam_is_told_once() -> None:
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=8))
    turn(scheduler)
    assert [event.request_id for event in scheduler.fail_all("gone")] == [0]
    assert scheduler.fail_all("gone") == []
    assert scheduler.running == 0


def test_a_step_in_which_everything_ends_leaves_rows_and_places_to_clean() -> None:
    scheduler = make_scheduler()
    scheduler.submit(request(0, beams=4, max_new_tokens=1))
    scheduler.plan(0)
    assert [type(event) for event in advance(scheduler)] == [Finished]
    assert scheduler.empty
    assert not scheduler.idle
    plan = scheduler.plan(0)
    assert plan.tokens == plan.positions == []
    assert (plan.changes.release_rows, plan.need.rows) == ([RowRelease(0, 1)], 0)
    assert scheduler.idle
