"""The server's metrics as the page shows them: how it is now, and what it did in the last seconds.

Fetched here and not by the browser, which could not read a page of another origin, and may not be on the server's
network. All tabs share one history, so many tabs scrape no more than one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from seqserve_client.server_metrics import Page, figures, scrape

INTERVAL_SECONDS = 1.0
WINDOW_SECONDS = 10.0
KEPT = 60
SCRAPE_TIMEOUT = 2.0
SHOWN = ("mean_rows_per_step", "mean_queue_ms", "mean_step_ms", "p50_ttft_ms", "p99_ttft_ms", "p50_request_ms")


class LiveMetrics:
    """Scrapes on demand, at most once in ``INTERVAL_SECONDS``.

    Args:
        address: HOST:PORT of the metrics page.
        fetch: ``scrape``, or a test's.
        clock: Monotonic seconds.
    """

    def __init__(
        self, address: str, fetch: Callable[[str, float], Page] = scrape, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.address = address
        self._fetch, self._clock = fetch, clock
        self._pages: deque[tuple[float, Page]] = deque(maxlen=KEPT)
        self._lock = asyncio.Lock()

    async def record(self) -> dict[str, Any]:
        """Gauges now, rates and times over the last ``WINDOW_SECONDS``, and a series of rates, oldest first.

        Raises:
            Unavailable: there is no such page.
        """
        async with self._lock:
            now = self._clock()
            if not self._pages or now - self._pages[-1][0] >= INTERVAL_SECONDS:
                # A loop's default threads hold up its end for as long as they run: the timeout bounds that.
                page = await asyncio.to_thread(self._fetch, f"http://{self.address}/metrics", SCRAPE_TIMEOUT)
                if self._pages and _restarted(self._pages[-1][1], page):
                    self._pages.clear()
                self._pages.append((now, page))
        return self._summary()

    def _summary(self) -> dict[str, Any]:
        last, page = self._pages[-1]
        first, before = next(each for each in self._pages if last - each[0] <= WINDOW_SECONDS)
        seconds, growth = last - first, page.since(before)
        found = figures(growth)
        return {
            "address": self.address,
            "running": page.total("seqserve_requests_running"),
            "waiting": page.total("seqserve_requests_waiting"),
            "requests": page.total("seqserve_requests_total"),
            "output_tokens": page.total("seqserve_output_tokens_total"),
            "seconds": seconds,
            "tokens_per_second": found["output_tokens"] / seconds if seconds else None,
            "requests_per_second": sum(found["requests_by_finish_reason"].values()) / seconds if seconds else None,
            **{name: found[name] for name in SHOWN},
            "series": self._series(),
        }

    def _series(self) -> list[float]:
        """Generated tokens per second between each two scrapes."""
        return [
            round(after.since(before).total("seqserve_output_tokens_total") / (end - start), 1)
            for (start, before), (end, after) in pairwise(self._pages)
        ]


def _restarted(before: Page, after: Page) -> bool:
    """Whether a counter fell: the server is another one, or holds another model."""
    name = "seqserve_output_tokens_total"
    return after.total(name) < before.total(name)
