"""When an engine hangs, by a clock that the tests own."""

import pytest

from seqserve_server.watchdog import Watchdog

TICK = 0.25


class Looks:
    """A watchdog of 2 seconds that is asked once per tick."""

    def __init__(self, watchdog: type[Watchdog] = Watchdog) -> None:
        self.now = 100.0
        self.watchdog = watchdog(2.0, 2 * TICK)

    def look(self, progress: int, after: float = TICK, has_work: bool = True) -> bool:
        self.now += after
        return self.watchdog.hangs(self.now, progress, has_work=has_work)

    def until(self, progress: int) -> float:
        """Seconds of no progress until it is said to hang."""
        begun = self.now
        while not self.look(progress):
            assert self.now < begun + 100
        return self.now - begun


def test_an_engine_without_progress_hangs_after_its_time_and_not_before() -> None:
    looks = Looks()
    looks.look(7)
    assert looks.until(7) == 2.0


def test_an_engine_that_finishes_anything_does_not_hang() -> None:
    looks = Looks()
    assert not any(looks.look(number // 7) for number in range(1000))
    assert looks.until(999 // 7) <= 2.0


def test_an_idle_engine_does_not_hang_and_its_time_begins_with_its_work() -> None:
    looks = Looks()
    assert not any(looks.look(7, has_work=False) for _ in range(1000))
    assert looks.until(7) == 2.0


@pytest.mark.parametrize("pause", [1.0, 60.0, 86400.0])
def test_time_in_which_nobody_looked_says_little(pause: float) -> None:
    """SIGSTOP, a machine that sleeps, a clock that jumps: one look counts for two ticks at most."""
    looks = Looks()
    looks.look(7)
    assert not looks.look(7, after=pause)
    assert looks.look(8) is False
    assert looks.until(8) == 2.0


def test_a_process_that_is_stopped_again_and_again_may_be_judged_late_but_is_judged() -> None:
    looks = Looks()
    looks.look(7)
    count = 1
    while not looks.look(7, after=1000.0):
        count += 1
    assert count == 4


class BelievesTheClock(Watchdog):
    """The planted bug: every second counts."""

    def __init__(self, hang_seconds: float, most_between: float) -> None:
        super().__init__(hang_seconds, float("inf"))


def test_a_watchdog_that_takes_a_pause_for_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looks.__init__, "__defaults__", (BelievesTheClock,))
    with pytest.raises(AssertionError):
        test_time_in_which_nobody_looked_says_little(60.0)
