"""A Prometheus histogram that takes many equal observations at once."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts per bucket. Written by one thread, read by any.

    ``prometheus_client.Histogram`` observes one value per call under a lock. A step gives the same inter-token time to
    up to ``max_rows`` rows, so that would be the dearest part of the step's Python.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Add ``count`` observations of ``value``."""
        self._counts[bisect_left(self.bounds, value)] += count
        self._sum += value * count

    def snapshot(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative (upper bound, count) pairs ending with "+Inf", and the sum."""
        counts, total, buckets = list(self._counts), 0, []
        for bound, count in zip((*self.bounds, None), counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else f"{bound:g}", float(total)))
        return buckets, self._sum
