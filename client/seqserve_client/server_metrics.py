"""What the server says of itself during a load test: its metrics page before, during and after, as differences.

Needs prometheus-client: the text format has corners (escapes, timestamps, exemplars) that a parser of our own would get
wrong one after the other. It is in the extras ``bench`` and ``server``.
"""

import math
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from seqserve_client.errors import Unavailable

# Figures by the server's histograms, which count in seconds, and in rows.
TIMES = {
    "queue_ms": "seqserve_request_queue_seconds",
    "encode_ms": "seqserve_encode_seconds",
    "step_ms": "seqserve_decode_step_seconds",
    "ttft_ms": "seqserve_time_to_first_token_seconds",
    "request_ms": "seqserve_request_duration_seconds",
}
ROWS = "seqserve_batch_rows"
PERCENTS = (50, 99)
SETTLE_TRIES, SETTLE_SECONDS = 10, 0.1


@dataclass(frozen=True, slots=True)
class Page:
    """One scrape: values by the name and the sorted labels of a sample."""

    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    @classmethod
    def parsed(cls, text: str) -> "Page":
        """The page of a text in Prometheus' format.

        Raises:
            ValueError: it is in no such format.
        """
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(text)
        return cls({
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families for sample in family.samples
        })

    def named(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each sample of a name."""
        return ((dict(labels), value) for (each, labels), value in self.values.items() if each == name)

    def total(self, name: str) -> float:
        """Over all models and labels; 0 where there is no such metric."""
        return sum(value for _, value in self.named(name))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Totals by the value of one label."""
        totals: dict[str, float] = {}
        for labels, value in self.named(name):
            key = labels.get(label, "")
            totals[key] = totals.get(key, 0.0) + value
        return totals

    def since(self, before: "Page") -> "Page":
        """The growth of every sample since another scrape; only counters and histograms mean anything in it."""
        return Page({key: value - before.values.get(key, 0.0) for key, value in self.values.items()})


def quantile(buckets: Mapping[float, float], percent: float) -> float | None:
    """A percentile by counts up to each bound, along a straight line within a bucket as Prometheus does it.

    Of what is beyond the largest finite bound no more is known than that; the bound is given. None without counts.
    """
    bounds = sorted(buckets)
    whole = buckets[bounds[-1]] if bounds else 0.0
    if whole <= 0:
        return None
    needed, low, below = percent / 100 * whole, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= needed:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (needed - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return low


def figures(growth: Page) -> dict[str, Any]:
    """What a server did between two scrapes, ready for JSON."""
    ended = growth.by("seqserve_requests_total", "finish_reason")
    codes = growth.by("grpc_server_handled_total", "grpc_code")
    steps, rows = growth.total(f"{ROWS}_count"), growth.total(f"{ROWS}_sum")
    found: dict[str, Any] = {
        "requests_by_finish_reason": {reason: int(count) for reason, count in sorted(ended.items()) if count},
        "calls_by_code": {code: int(count) for code, count in sorted(codes.items()) if count},
        "input_tokens": int(growth.total("seqserve_input_tokens_total")),
        "output_tokens": int(growth.total("seqserve_output_tokens_total")),
        "encoder_cache_hits": int(growth.total("seqserve_encoder_cache_hits_total")),
        "decode_steps": int(steps),
        "mean_rows_per_step": rows / steps if steps else None,
    }
    for name, metric in TIMES.items():
        count = growth.total(f"{metric}_count")
        found[f"mean_{name}"] = growth.total(f"{metric}_sum") / count * 1000 if count else None
        buckets = {float(bound): value for bound, value in growth.by(f"{metric}_bucket", "le").items()}
        for percent in PERCENTS:
            seconds = quantile(buckets, percent)
            found[f"p{percent}_{name}"] = None if seconds is None else seconds * 1000
    return found


def scrape(url: str, timeout: float = 5.0) -> Page:
    """One page.

    Raises:
        Unavailable: there is none at this address, or another one.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310 - the command line checks the scheme
            page = Page.parsed(response.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise Unavailable(f"no metrics at {url}: {error}") from error
    if not any(name.startswith("seqserve_") for name, _ in page.values):
        raise Unavailable(f"no metrics at {url}: the page has none that begins with seqserve_")
    return page


def settled(url: str) -> Page:
    """The page once nothing waits or runs in the server, which tells callers of their end before it counts it.

    Not for long: where others send requests too, it may never be so.

    Raises:
        Unavailable: as ``scrape``.
    """
    for _ in range(SETTLE_TRIES):
        page = scrape(url)
        if not page.total("seqserve_requests_waiting") + page.total("seqserve_requests_running"):
            break
        time.sleep(SETTLE_SECONDS)
    return page


@dataclass(slots=True)
class Watch:
    """Scrapes beside a run, by a thread of its own; a context manager around the run.

    Attributes:
        before: The page before the run, from ``settled``.
        series: A record every ``interval`` seconds, with "seconds" after the start.
    """

    url: str
    before: Page
    interval: float = 1.0
    series: list[dict[str, float]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="scrape", daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        start = time.perf_counter()
        while not self._ended.wait(self.interval):
            try:
                page = scrape(self.url, self.interval)
            except Unavailable:
                continue  # a gap in the series says it
            self.series.append({
                "seconds": round(time.perf_counter() - start, 3),
                "waiting": page.total("seqserve_requests_waiting"),
                "running": page.total("seqserve_requests_running"),
                "output_tokens": page.since(self.before).total("seqserve_output_tokens_total"),
            })

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def result(self) -> dict[str, Any]:
        """What the server did since the start, after the end of the run.

        Raises:
            Unavailable: it cannot be scraped any more.
        """
        found = figures(settled(self.url).since(self.before))
        found["peak_waiting"] = max((record["waiting"] for record in self.series), default=None)
        found["peak_running"] = max((record["running"] for record in self.series), default=None)
        found["series"] = self.series
        return found
