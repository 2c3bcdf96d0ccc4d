"""Read a Prometheus page and say, per histogram, what a person wants to know of it."""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Histogram:
    """Cumulative buckets, summed over all labels but ``le``.

    Attributes:
        buckets: (upper bound, observations at or below it), bounds ascending; the last bound is infinite.
        total: Sum of the observed values.
    """

    buckets: tuple[tuple[float, float], ...]
    total: float

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.buckets[-1][1]

    @property
    def mean(self) -> float:
        """Exact: sums and counts are not bucketed."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, fraction: float) -> float:
        """Estimate as Prometheus does: linear within the bucket where the rank falls.

        In the last bucket, which has no upper bound, the answer is its lower bound: the value is at least that.
        """
        if not self.count:
            return math.nan
        rank = fraction * self.count
        lower, below = 0.0, 0.0
        for bound, at_or_below in self.buckets:
            if at_or_below >= rank and at_or_below > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (at_or_below - below)
            lower, below = bound, at_or_below
        return lower


@dataclass(frozen=True)
class Metrics:
    """One scrape: histograms, and the sum of every other sample over its labels."""

    histograms: dict[str, Histogram]
    values: dict[str, float]


def parse_metrics(page: str) -> Metrics:
    """Parse the text format; native histograms and exemplars are ignored."""
    histograms: dict[str, Histogram] = {}
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        buckets: dict[float, float] = {}
        total = 0.0
        for sample in family.samples:
            if family.type != "histogram":
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
            elif sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            elif sample.name.endswith("_sum"):
                total += sample.value
        if buckets:
            histograms[family.name] = Histogram(tuple(sorted(buckets.items())), total)
    return Metrics(histograms, values)
