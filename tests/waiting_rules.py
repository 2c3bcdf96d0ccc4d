"""What a waiting queue promises, counted by hand beside it: a queue with a fault breaks one of the rules."""

import random
from collections import deque
from dataclasses import dataclass

from seqserve_server.waiting import Fairness, WaitingQueue


@dataclass(frozen=True, slots=True)
class Ticket:
    """Somebody who waits."""

    id: int
    tenant: str = ""
    priority: int = 0
    cost: float = 1.0


class WatchedQueue:
    """A queue, and a second book of who stands where; every operation is checked.

    - A line is served in the order of arrival.
    - The first of a line is not overtaken more often than allowed by others that became first later.
    - Unless that compels it, nobody of a lower priority goes before a higher one.
    """

    def __init__(self, fairness: Fairness, kind: type[WaitingQueue[Ticket]] = WaitingQueue) -> None:
        self.queue = kind(fairness)
        self.most = fairness.max_overtaken
        self.lines: dict[tuple[int, str], deque[Ticket]] = {}
        self.first_since: dict[int, int] = {}
        self.overtaken: dict[int, int] = {}
        self.most_seen = 0
        self._count = 0

    def add(self, ticket: Ticket) -> None:
        """Let one wait."""
        self.queue.add(ticket)
        line = self.lines.setdefault((ticket.priority, ticket.tenant), deque())
        line.append(ticket)
        if len(line) == 1:
            self._first(ticket)
        self._check_size()

    def remove(self, ticket: Ticket) -> None:
        """Take one out that has not been taken."""
        assert self.queue.remove(ticket.id) is ticket
        line = self.lines[ticket.priority, ticket.tenant]
        was_first = line[0] is ticket
        line.remove(ticket)
        if was_first and line:
            self._first(line[0])
        self._forget(ticket)
        self._check_size()

    def take(self) -> Ticket:
        """Take the next one."""
        first = self.queue.first()
        assert first is not None
        taken, _ = self.queue.take(first.cost)
        assert taken is first, "not the one that was announced"
        line = self.lines[taken.priority, taken.tenant]
        assert line[0] is taken, "somebody was overtaken in its own line"
        pressing = [number for number, count in self.overtaken.items() if count >= self.most]
        highest = max(priority for (priority, _), waiting in self.lines.items() if waiting)
        assert taken.id in pressing or taken.priority == highest, "a lower priority went first"
        for number, since in self.first_since.items():
            if since < self.first_since[taken.id]:
                self.overtaken[number] += 1
                self.most_seen = max(self.most_seen, self.overtaken[number])
                assert self.overtaken[number] <= self.most, "a request was overtaken too often"
        line.popleft()
        if line:
            self._first(line[0])
        self._forget(taken)
        self._check_size()
        return taken

    def _first(self, ticket: Ticket) -> None:
        self._count += 1
        self.first_since[ticket.id], self.overtaken[ticket.id] = self._count, 0

    def _forget(self, ticket: Ticket) -> None:
        for book in (self.first_since, self.overtaken):
            book.pop(ticket.id, None)
        if not self.lines[ticket.priority, ticket.tenant]:
            del self.lines[ticket.priority, ticket.tenant]

    def _check_size(self) -> None:
        assert len(self.queue) == sum(map(len, self.lines.values())), "somebody was lost"


def hostile_traffic(seed: int, count: int, kind: type[WaitingQueue[Ticket]] = WaitingQueue) -> WatchedQueue:
    """So many requests that try to starve others: floods, urgent streams, changing names, cheap and costly ones."""
    rng = random.Random(seed)
    names = ["", "a", "b", "c", "heavy"][: rng.randint(1, 5)]
    fairness = Fairness(rng.choice((0, 1, 2, 5, 16)), {"heavy": rng.choice((0.1, 1.0, 20.0))})
    watched, number = WatchedQueue(fairness, kind), 0
    waiting: dict[int, Ticket] = {}
    while number < count or waiting:
        if number < count and rng.random() < 0.6:
            for _ in range(rng.choice((1, 1, 1, 2, 12))):
                tenant = rng.choice(names) if rng.random() < 0.95 else f"forged-{number}"
                ticket = Ticket(number, tenant, rng.choice((-10, 0, 0, 0, 1, 10)), rng.choice((1, 2, 10, 500)))
                waiting[number] = ticket
                watched.add(ticket)
                number += 1
        elif waiting and rng.random() < 0.1:
            watched.remove(waiting.pop(rng.choice(list(waiting))))
        elif waiting:
            del waiting[watched.take().id]
    return watched
