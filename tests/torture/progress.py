"""How far a row is, for whoever waits for it."""

import sys
import time

EVERY_SECONDS = 15.0


class Progress:
    """Says on stderr, now and then, how many of a row are done; a short row says nothing."""

    def __init__(self, row: str, count: int) -> None:
        self._row, self._count, self._done, self._begun = row, count, 0, time.monotonic()
        self._told = self._begun

    def add(self, done: int = 1) -> None:
        """So many more are done."""
        self._done += done
        now = time.monotonic()
        if now - self._told >= EVERY_SECONDS:
            self._told = now
            left = (now - self._begun) / self._done * (self._count - self._done)
            sys.stderr.write(f"{self._row}: {self._done} of {self._count}, {left:.0f} s left\n")
