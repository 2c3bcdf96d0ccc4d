"""Who is out of time, without looking at everybody. Time comes in as an argument."""

import heapq
from collections.abc import Callable


class Deadlines:
    """Of requests that may have ended meanwhile: nobody has to say so.

    Args:
        is_open: Whether a request has not ended yet.
    """

    def __init__(self, is_open: Callable[[int], bool]) -> None:
        self._is_open = is_open
        self._entries: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, request_id: int, deadline: float | None, open_requests: int) -> None:
        """Remember a deadline, if there is one; ``open_requests`` bounds how many of ended requests are kept."""
        if deadline is None:
            return
        heapq.heappush(self._entries, (deadline, request_id))
        if len(self._entries) > 2 * open_requests + 64:  # most have ended
            self._entries = sorted(entry for entry in self._entries if self._is_open(entry[1]))

    def passed(self, now: float) -> list[int]:
        """Ids whose deadline has come, those of ended requests too; each is told once."""
        passed: list[int] = []
        while self._entries and self._entries[0][0] <= now:
            passed.append(heapq.heappop(self._entries)[1])
        return passed
