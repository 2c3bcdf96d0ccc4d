"""Who of those that wait goes next: by priority, by the fair share of each tenant, and nobody overtaken for ever. Pure.

A *line* is what one tenant has waiting at one priority, in order of arrival; only its first can be next. Among the
first ones of the highest priority goes the one whose tenant has been given least, by its weight: start-time fair
queueing. Each line has a virtual time up to which it has been charged; its first is due then, or at the time of the
last that was taken, if that is later: who was away has saved nothing up.

A first one is *overtaken* when another, that became the first of its line later, is taken before it. After
``max_overtaken`` of those it goes before everybody, whatever its priority or its tenant's share.
"""

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

DEFAULT_MAX_OVERTAKEN = 128
MAX_IDLE_LINES = 4096  # names of tenants come from outside: what is remembered of them has to end somewhere
NOBODY = -1


class Waiting(Protocol):
    """What can wait."""

    @property
    def id(self) -> int:
        """Its own."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def tenant(self) -> str:
        """On whose account it goes."""


Item = TypeVar("Item", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Fairness:
    """How to share.

    Attributes:
        max_overtaken: How often the first of a line may be overtaken; 0 makes lines take turns, whatever they hold.
        weights: Shares of tenants, over 0; of those not named it is 1.
    """

    max_overtaken: int = DEFAULT_MAX_OVERTAKEN
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Line(Generic[Item]):
    """Of one tenant at one priority.

    Attributes:
        front: Number of its first, counted over all lines as they become first; ``NOBODY`` where nobody waits.
        start: Virtual time at which its first is due.
        finish: Virtual time up to which it has been charged.
    """

    tenant: str
    priority: int
    weight: float
    # Not a dict: finding the first of those again and again looks at every one that has left.
    waiting: OrderedDict[int, Item] = field(default_factory=OrderedDict)
    front: int = NOBODY
    start: float = 0.0
    finish: float = 0.0


class Level(Generic[Item]):
    """The lines of one priority, as long as somebody waits there; after that it starts anew.

    Attributes:
        clock: Virtual time: when the last one taken was due. No first one is due before it.
        lines: By tenant; those that wait, and those that have been charged ahead of the clock.
    """

    def __init__(self) -> None:
        self.clock = 0.0
        self.lines: dict[str, Line[Item]] = {}
        self.busy = 0  # lines in which somebody waits
        self._due: list[tuple[float, int, Line[Item]]] = []  # entries of times gone by are dropped when they come up
        self._idle: list[tuple[float, int, Line[Item]]] = []
        self._count = 0

    def note(self, line: Line[Item]) -> None:
        """A line has a new first, or that is due at another time."""
        heapq.heappush(self._due, (line.start, line.front, line))

    def first(self) -> Line[Item]:
        """The line whose first is due first; of several the one that has been the first for longest."""
        while True:
            start, front, line = self._due[0]
            if line.front == front and line.start == start:
                return line
            heapq.heappop(self._due)

    def advance(self, line: Line[Item]) -> None:
        """Its first is taken in its turn."""
        self.clock = line.start
        while self._idle and self._idle[0][0] <= self.clock:
            self._forget(heapq.heappop(self._idle)[2])

    def rest(self, line: Line[Item]) -> None:
        """Nobody waits in a line any more."""
        if line.finish <= self.clock:
            self.lines.pop(line.tenant, None)
            return
        self._count += 1
        heapq.heappush(self._idle, (line.finish, self._count, line))
        if len(self._idle) > MAX_IDLE_LINES:
            self._forget(heapq.heappop(self._idle)[2])

    def _forget(self, line: Line[Item]) -> None:
        if not line.waiting and self.lines.get(line.tenant) is line:
            del self.lines[line.tenant]


class WaitingQueue(Generic[Item]):
    """All lines. Every method takes time by the logarithm of how many lines there are, not of how many wait."""

    def __init__(self, fairness: Fairness | None = None) -> None:
        self._fairness = fairness or Fairness()
        self._levels: dict[int, Level[Item]] = {}  # those where somebody waits
        self._line_of: dict[int, Line[Item]] = {}
        self._fronts: OrderedDict[int, Line[Item]] = OrderedDict()  # lines by the number of their first, ascending
        self._overtakers: list[int] = []  # numbers taken that are higher than that of the oldest first, ascending
        self._count = 0
        self._next: Line[Item] | None = None

    def __len__(self) -> int:
        return len(self._line_of)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._line_of

    def ids(self) -> list[int]:
        """Of all that wait, in no order that means anything."""
        return list(self._line_of)

    def add(self, item: Item) -> None:
        """Let one wait. Its id must be new."""
        level = self._levels.setdefault(item.priority, Level())
        line = level.lines.get(item.tenant)
        if line is None:
            line = Line(item.tenant, item.priority, self._fairness.weights.get(item.tenant, 1.0))
            level.lines[item.tenant] = line
        line.waiting[item.id] = item
        self._line_of[item.id] = line
        if line.front == NOBODY:
            level.busy += 1
            self._come_first(line, max(level.clock, line.finish))

    def first(self) -> Item | None:
        """Who goes next; None where nobody waits."""
        if self._next is None:
            if not self._fronts:
                return None
            self._next = self._choose()
        return next(iter(self._next.waiting.values()))

    def take(self, cost: float) -> tuple[Item, Line[Item]]:
        """Take out the one that goes next, which must be there, and charge its line.

        Args:
            cost: In any unit that all share; over 0.

        Returns:
            It, and its line, for ``correct``.
        """
        item = self.first()
        line = self._next
        if item is None or line is None:
            raise AssertionError("nobody waits")
        level = self._levels[line.priority]
        if level.first() is line:  # not for one that goes out of turn: others are due before it
            level.advance(line)
        if line is not next(iter(self._fronts.values())):
            insort(self._overtakers, line.front)
        line.finish = line.start + cost / line.weight
        self._drop(item.id, line, line.finish)
        return item, line

    def remove(self, item_id: int) -> Item:
        """Take one out that waits, wherever it stands; nothing is charged."""
        line = self._line_of[item_id]
        return self._drop(item_id, line, line.start)

    def correct(self, line: Line[Item], less: float) -> None:
        """The line was charged so much too much (too little, where it is negative)."""
        line.finish -= less / line.weight
        level = self._levels.get(line.priority)
        if line.waiting and level is not None:
            line.start = max(level.clock, line.finish)
            level.note(line)
            self._next = None

    def clear(self) -> None:
        """Take out all."""
        for item_id in self.ids():
            self.remove(item_id)

    def _choose(self) -> Line[Item]:
        if len(self._overtakers) >= self._fairness.max_overtaken:
            # Whoever overtakes another first one overtakes the oldest, too: it has always been overtaken most often.
            return next(iter(self._fronts.values()))
        return self._levels[max(self._levels)].first()

    def _come_first(self, line: Line[Item], start: float) -> None:
        self._count += 1
        line.front, line.start = self._count, start
        self._fronts[line.front] = line
        self._levels[line.priority].note(line)
        self._next = None

    def _drop(self, item_id: int, line: Line[Item], start: float) -> Item:
        """Take one out; if it is the first of its line, the one behind it is due at ``start``."""
        was_first = next(iter(line.waiting)) == item_id
        item = line.waiting.pop(item_id)
        del self._line_of[item_id]
        if was_first:
            self._leave_front(line, start)
        return item

    def _leave_front(self, line: Line[Item], start: float) -> None:
        del self._fronts[line.front]
        line.front, self._next = NOBODY, None
        if line.waiting:
            self._come_first(line, start)
        else:
            level = self._levels[line.priority]
            level.rest(line)
            level.busy -= 1
            if not level.busy:
                del self._levels[line.priority]
        oldest = next(iter(self._fronts), None)
        if oldest is None:
            self._overtakers.clear()
        else:
            del self._overtakers[: bisect_left(self._overtakers, oldest)]


def read_weights(text: str) -> dict[str, float]:
    """Weights of tenants from ``gold=4,free=0.5``; empty for none.

    Raises:
        ValueError: saying what is wrong with which entry.
    """
    weights: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, sign, number = entry.partition("=")
        if not sign or not name:
            raise ValueError(f"{entry!r} is not of the form NAME=WEIGHT")
        if name in weights:
            raise ValueError(f"{name!r} is given twice")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(f"{number!r} of {name!r} is not a number") from None
        if not 0.001 <= weights[name] <= 1000:
            raise ValueError(f"{number} of {name!r} is outside 0.001..1000")
    return weights
