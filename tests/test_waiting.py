"""Who goes next, by hand-made queues, any sequence of operations, and queues with planted faults."""

from collections import Counter, deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve_server.waiting import MAX_IDLE_LINES, Fairness, Level, Line, WaitingQueue, read_weights
from waiting_rules import Ticket, WatchedQueue, hostile_traffic


def order(queue: WaitingQueue[Ticket], count: int | None = None) -> list[int]:
    """Who is taken, until nobody is left or so many were."""
    taken: list[int] = []
    while (first := queue.first()) is not None and len(taken) != count:
        taken.append(queue.take(first.cost)[0].id)
    return taken


def filled(tickets: Sequence[Ticket], max_overtaken: int = 1 << 30, **weights: float) -> WaitingQueue[Ticket]:
    queue: WaitingQueue[Ticket] = WaitingQueue(Fairness(max_overtaken, weights))
    for ticket in tickets:
        queue.add(ticket)
    return queue


@given(st.lists(st.integers(-1, 3) | st.integers(4, 40)), st.integers(0, 3))
def test_one_tenant_at_one_priority_is_served_in_order_of_arrival(operations: list[int], most: int) -> None:
    queue, model = filled([], most), deque[Ticket]()
    for number, operation in enumerate(operations):
        if operation > 3 or not model:
            model.append(Ticket(number, cost=operation + 2))
            queue.add(model[-1])
        elif operation >= 0:
            ticket = model[operation % len(model)]
            model.remove(ticket)
            assert queue.remove(ticket.id) is ticket
        else:
            assert queue.take(queue.first().cost)[0] is model.popleft()  # type: ignore[union-attr]
        assert queue.first() is (model[0] if model else None)
    assert order(queue) == [ticket.id for ticket in model]


def test_a_higher_priority_goes_first_and_among_equals_the_one_that_came_first() -> None:
    queue = filled([Ticket(number, priority=priority) for number, priority in enumerate((0, 1, -1, 1, 0, 10))])
    assert order(queue) == [5, 1, 3, 0, 4, 2]


def test_tenants_take_turns_whatever_one_of_them_has_waiting() -> None:
    queue = filled([*(Ticket(number, "heavy") for number in range(5)), Ticket(5, "a"), Ticket(6, "b"), Ticket(7, "a")])
    assert order(queue) == [0, 5, 6, 1, 7, 2, 3, 4]


def test_shares_are_those_of_the_weights_counted_in_cost() -> None:
    tickets = [
        Ticket(number, tenant, cost=cost) for number, (tenant, cost) in enumerate([("gold", 10), ("free", 2)] * 1000)
    ]
    queue = filled(tickets, gold=4.0)
    given_to: Counter[str] = Counter()
    for number in order(queue, 600):
        given_to[tickets[number].tenant] += int(tickets[number].cost)
    assert given_to["gold"] / given_to["free"] == pytest.approx(4, rel=0.02)


def test_who_was_away_has_saved_nothing_up() -> None:
    queue = filled([Ticket(number, "busy") for number in range(200)])
    order(queue, 100)
    for number in range(200, 210):
        queue.add(Ticket(number, "back"))
    assert sum(number >= 200 for number in order(queue, 10)) == 5, "it did not get every second turn"


def test_who_took_too_much_waits_even_if_it_left_in_between() -> None:
    queue = filled([Ticket(0, "greedy", cost=50), *(Ticket(number, "other") for number in range(1, 100))])
    assert order(queue, 10) == [0, *range(1, 10)]
    queue.add(Ticket(100, "greedy"))
    taken = order(queue)
    assert taken.index(100) == 41, "what it was charged was forgotten while it was away"


def test_what_was_charged_too_much_is_given_back() -> None:
    tickets = [Ticket(0, "a"), Ticket(1, "b"), *(Ticket(2 + number, "ab"[number % 2]) for number in range(20))]
    queue = filled(tickets)
    _, line = queue.take(100)
    assert order(queue, 8) == [1, 3, 5, 7, 9, 11, 13, 15], "b has its turn until it has had as much"
    queue.correct(line, 92)  # it was 8
    assert [tickets[number].tenant for number in order(queue, 6)] == ["a", "b", "a", "b", "a", "b"]


def test_the_first_of_a_line_is_overtaken_as_often_as_allowed_and_then_goes_first() -> None:
    queue = filled([Ticket(0, priority=-1)], 3)
    for number in range(1, 10):
        queue.add(Ticket(number))
    assert order(queue) == [1, 2, 3, 0, *range(4, 10)]


def test_no_overtaking_at_all_makes_lines_take_turns() -> None:
    queue = filled([Ticket(0, "a"), Ticket(1, "a"), Ticket(2, "b", 5), Ticket(3, "b", 5), Ticket(4, "c", 9)], 0)
    assert order(queue) == [0, 2, 4, 1, 3]


def test_names_that_are_made_up_do_not_pile_up() -> None:
    queue = filled([Ticket(0, "patient", cost=1e9), Ticket(1, "patient")])
    order(queue, 1)
    for number in range(2, 3 * MAX_IDLE_LINES):
        queue.add(Ticket(number, f"forged-{number}"))
        order(queue, 1)
    level = queue._levels[0]
    assert len(level.lines) <= MAX_IDLE_LINES + 2
    assert len(level._idle) <= MAX_IDLE_LINES
    assert order(queue) == [1]
    assert (queue._levels, queue._line_of) == ({}, {})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 200))
def test_no_request_is_overtaken_too_often_whatever_comes(seed: int, count: int) -> None:
    hostile_traffic(seed, count)


@pytest.mark.slow
def test_no_request_of_a_million_is_overtaken_too_often() -> None:
    seen = [hostile_traffic(seed, 100).most_seen for seed in range(10_000)]
    assert max(seen) == 16, "the bound itself is reached, so that it was looked at"


class NeverPresses(WaitingQueue[Ticket]):
    def _choose(self) -> Line[Ticket]:
        return self._levels[max(self._levels)].first()


class PressesOneTooLate(WaitingQueue[Ticket]):
    def _choose(self) -> Line[Ticket]:
        if len(self._overtakers) > self._fairness.max_overtaken:
            return next(iter(self._fronts.values()))
        return self._levels[max(self._levels)].first()


class ForgetsOvertakers(WaitingQueue[Ticket]):
    def _leave_front(self, line: Line[Ticket], start: float) -> None:
        super()._leave_front(line, start)
        self._overtakers.clear()


class TakesTheLastOfALine(WaitingQueue[Ticket]):
    def add(self, item: Ticket) -> None:
        super().add(item)
        self._line_of[item.id].waiting.move_to_end(item.id, last=False)


class IgnoresPriorities(WaitingQueue[Ticket]):
    def _choose(self) -> Line[Ticket]:
        if len(self._overtakers) >= self._fairness.max_overtaken:
            return super()._choose()
        return self._levels[min(self._levels)].first()


class LosesWhoIsBehindARemovedOne(WaitingQueue[Ticket]):
    def remove(self, item_id: int) -> Ticket:
        line = self._line_of[item_id]
        for other in [other for other in line.waiting if other != item_id][:1]:
            super().remove(other)
        return super().remove(item_id)


BUGS: dict[type[WaitingQueue[Ticket]], str] = {
    NeverPresses: "overtaken too often",
    PressesOneTooLate: "overtaken too often",
    ForgetsOvertakers: "overtaken too often",
    TakesTheLastOfALine: "overtaken in its own line",
    IgnoresPriorities: "a lower priority went first",
    LosesWhoIsBehindARemovedOne: "somebody was lost",
}


@pytest.mark.parametrize(("bug", "symptom"), BUGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_is_found(bug: type[WaitingQueue[Ticket]], symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        many_seeds(bug)


def many_seeds(kind: type[WaitingQueue[Ticket]]) -> None:
    for seed in range(40):
        hostile_traffic(seed, 200, kind)


def test_a_queue_that_ignores_weights_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "weight", property(lambda line: 1.0, lambda line, weight: None), raising=False)
    with pytest.raises(AssertionError):
        test_shares_are_those_of_the_weights_counted_in_cost()


def test_a_queue_that_lets_save_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Level, "advance", lambda level, line: None)
    with pytest.raises(AssertionError):
        test_who_was_away_has_saved_nothing_up()


def test_a_watched_queue_finds_nothing_where_nothing_is_planted() -> None:
    watched = WatchedQueue(Fairness())
    for number in range(3):
        watched.add(Ticket(number))
    assert [watched.take().id for _ in range(3)] == [0, 1, 2]


def test_weights_are_read_from_a_line() -> None:
    assert read_weights("") == {}
    assert read_weights(" gold=4, free=0.5 ,") == {"gold": 4.0, "free": 0.5}


@pytest.mark.parametrize(("text", "said"), [
    ("gold", "'gold' is not of the form NAME=WEIGHT"), ("=3", "'=3' is not of the form"),
    ("gold=x", "'x' of 'gold' is not a number"), ("gold=0", "0 of 'gold' is outside 0.001..1000"),
    ("gold=nan", "nan of 'gold' is outside"), ("gold=1001", "is outside"), ("a=1,a=2", "'a' is given twice"),
])
def test_a_bad_weight_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_weights(text)
