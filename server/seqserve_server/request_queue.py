"""Requests that wait for rows: whose turn it is, what it is charged, and who cannot be in time any more. Pure."""

from collections.abc import Callable

from seqserve_server.request import TARGET_COST, Request
from seqserve_server.waiting import Fairness, Line, WaitingQueue

MEMORY = 1 / 32  # part that the newest request has in what is expected of the next


class RequestQueue(WaitingQueue[Request]):
    """Requests are charged in source tokens: what they are expected to generate when they start, then what they did.

    Args:
        needed: Seconds that a request takes once it has rows, where that is known.
    """

    def __init__(self, fairness: Fairness | None = None, needed: Callable[[Request], float] | None = None) -> None:
        super().__init__(fairness)
        self._needed = needed
        self._expected: float | None = None  # tokens of a hypothesis
        self._charged: dict[int, tuple[Line[Request], float]] = {}

    def start(self) -> Request:
        """Take out the one that goes next, which must be there. ``settle`` has to follow when it leaves its rows."""
        request = self.first()
        if request is None:
            raise AssertionError("nobody waits")
        most = request.search.max_new_tokens
        cost = cost_of(request, most if self._expected is None else min(self._expected, most))
        _, line = self.take(cost)
        self._charged[request.id] = (line, cost)
        return request

    def settle(self, request: Request, generated: int) -> None:
        """A request leaves its rows after so many steps that gave it a token."""
        line, charged = self._charged.pop(request.id)
        self.correct(line, charged - cost_of(request, generated))
        if self._expected is None:
            self._expected = float(generated)
        self._expected += MEMORY * (generated - self._expected)

    def hopeless(self, now: float) -> bool:
        """Whether the one that goes next will not be in time, and somebody waits behind it who may.

        Rows that it held would be lost to both. Where nobody else waits they cost nothing, and it may be lucky.
        """
        request = self.first()
        if request is None or request.deadline is None or self._needed is None or len(self) == 1:
            return False
        return now + self._needed(request) > request.deadline


def cost_of(request: Request, generated: float) -> float:
    """In tokens of an encoder batch; every hypothesis counts."""
    return len(request.source) + TARGET_COST * request.search.rows * generated
