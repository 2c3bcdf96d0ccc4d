"""The line at the bottom of the terminal while a load test runs."""

import shutil
import time
from collections import deque
from typing import TextIO

from seqserve_client.load_progress import Tally

SHOWN_SECONDS = 0.2
RATE_SECONDS = 2.0  # the shown rate is that of so long ago until now


class Live:
    """Draws over itself on a terminal.

    Args:
        label: Stands first, such as the rate of a sweep.
    """

    def __init__(self, stream: TextIO, label: str = "") -> None:
        self._stream, self._label = stream, label
        self._start = self._shown = time.monotonic()
        self._ends: deque[tuple[float, int]] = deque([(self._start, 0)])

    def tell(self, tally: Tally) -> None:
        """Draw, unless that was just done: drawing takes time from the requests that are measured."""
        now = time.monotonic()
        if now < self._shown + SHOWN_SECONDS:
            return
        self._shown = now
        while len(self._ends) > 1 and self._ends[1][0] <= now - RATE_SECONDS:
            self._ends.popleft()
        before, ended = self._ends[0]
        self._ends.append((now, tally.ended))
        line = self._label + tally.line(now - self._start, (tally.ended - ended) / (now - before))
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be drawn over
        self._stream.write(f"\r{line[:width]}\033[K")
        self._stream.flush()

    def clear(self) -> None:
        """Leave the line as it was before."""
        self._stream.write("\r\033[K")
        self._stream.flush()
