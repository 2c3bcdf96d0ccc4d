"""When requests are due: seeded Poisson and gamma arrivals, a ramp, and how client processes share them. Pure."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """What one of ``count`` client processes does: of a numbered schedule, every ``count``-th from ``index`` on.

    Dealt out in turn and not cut into blocks, so that every process is as busy as the others at any time, and so that
    the union over all processes is exactly the schedule of a single one.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"share {self.index} of {self.count}: the first is 0, the last one below the count")

    def part(self, total: int) -> int:
        """This share of ``total`` things; over all shares they add up to it."""
        return total // self.count + (self.index < total % self.count)

    def numbers(self) -> Iterator[int]:
        """The numbers of this share, without end."""
        return itertools.count(self.index, self.count)

    def offsets(self, schedule: Iterator[float]) -> Iterator[tuple[int, float]]:
        """Number and offset of each arrival of this share."""
        return itertools.islice(enumerate(schedule), self.index, None, self.count)


def arrival_offsets(
    seed: int,
    rate: float,
    count: int | None,
    duration: float | None = None,
    *,
    burstiness: float = 1.0,
    ramp: float = 0.0,
) -> Iterator[float]:
    """Intended send times in seconds after the start; the first gap is random like all others.

    With a ramp the rate grows from 0 in proportion to the time, and is ``rate`` from the ramp's end on. Count and
    duration then begin at its end: arrivals before ``ramp`` come on top of them.

    Args:
        seed: The same seed gives the same times, also under another count or duration, and (without a ramp) times in
            proportion under another rate.
        rate: Mean arrivals per second; infinite for all at 0.
        count: Most arrivals, or None.
        duration: Arrivals lie before it, or None.
        burstiness: Shape of the gamma distribution of gaps, whose coefficient of variation is ``burstiness ** -0.5``:
            1 is a Poisson process, less comes in bursts, more is nearly regular.
        ramp: Seconds.
    """
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    end = math.inf if duration is None else ramp + duration
    due, sent = 0.0, 0  # ``due``: arrivals that are to be expected by now
    while count is None or sent < count:
        gap = generator.expovariate(1.0) if burstiness == 1 else generator.gammavariate(burstiness, 1 / burstiness)
        due += gap
        offset = _time_of(due, rate, ramp)
        if offset >= end:
            return
        yield offset
        sent += offset >= ramp


def _time_of(due: float, rate: float, ramp: float) -> float:
    """When so many arrivals are expected: the inverse of the rate's integral."""
    if due < rate * ramp / 2:
        return math.sqrt(2 * ramp * due / rate)
    return due / rate + ramp / 2
