"""What a running load test can tell without being slowed by it: counts, and latencies in buckets that add up. Pure."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

STEP = math.log(1.05)  # buckets are 5 % wide, so that a percentile is at most 5 % too high


@dataclass(slots=True)
class Tally:
    """Counts of one client process so far, or of several added up.

    Attributes:
        buckets: Successful requests by the logarithm of their latency. Raw latencies are kept elsewhere; to sort them
            four times a second would take time from the requests that are being measured.
    """

    sent: int = 0
    ended: int = 0
    failed: int = 0
    buckets: Counter[int] = field(default_factory=Counter)

    def end(self, seconds: float, *, failed: bool) -> None:
        """Note the end of a request after so many seconds."""
        self.ended += 1
        if failed:
            self.failed += 1
        else:
            self.buckets[math.ceil(math.log(max(seconds, 1e-6)) / STEP)] += 1

    def milliseconds(self, percent: float) -> float | None:
        """A percentile of the latencies so far, rounded up to its bucket; None where nothing succeeded."""
        needed, below = math.ceil(percent / 100 * self.buckets.total()), 0
        for bucket in sorted(self.buckets):
            below += self.buckets[bucket]
            if below >= needed:
                return math.exp(bucket * STEP) * 1000
        return None

    def line(self, seconds: float, rate: float) -> str:
        """For a terminal, after so many seconds and with so many ends per second of late.

        What matters most stands first, for narrow terminals cut it off.
        """
        p50, p99 = self.milliseconds(50), self.milliseconds(99)
        latency = "" if p50 is None or p99 is None else f"  p50 {p50:.0f} p99 {p99:.0f} ms"
        return (
            f"{seconds:4.0f} s  {rate:.1f}/s{latency}  in flight {self.sent - self.ended}  failed {self.failed}  "
            f"ended {self.ended}  sent {self.sent}"
        )


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them added up."""
    whole = Tally()
    for tally in tallies:
        whole.sent += tally.sent
        whole.ended += tally.ended
        whole.failed += tally.failed
        whole.buckets += tally.buckets
    return whole
