"""Whether an engine hangs: there is work, and no run of it ends. Values in, values out, time too."""


class Watchdog:
    """Looks at an engine every so often, and adds up how long it has made no progress while it had work.

    Between two looks no more than ``most_between`` counts. Whoever looks may have been stopped itself, with all of the
    process or the machine, or may not have got its turn: that time tells nothing of the engine.
    """

    def __init__(self, hang_seconds: float, most_between: float) -> None:
        self._hang_seconds, self._most_between = hang_seconds, most_between
        self._last_look: float | None = None
        self._progress = -1
        self._stalled = 0.0

    def hangs(self, now: float, progress: int, *, has_work: bool) -> bool:
        """Look.

        Args:
            now: Seconds of a clock that never goes back.
            progress: A number that changes with everything that the engine finishes.
            has_work: Whether anybody waits for it.
        """
        since = 0.0 if self._last_look is None else now - self._last_look
        self._last_look = now
        if progress != self._progress or not has_work:
            self._progress, self._stalled = progress, 0.0
            return False
        self._stalled += min(since, self._most_between)
        return self._stalled >= self._hang_seconds
