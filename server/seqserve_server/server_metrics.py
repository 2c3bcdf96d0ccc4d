"""Metrics of the process and of the server as a whole; those of a model are in ``metrics``."""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from seqserve import __version__
from seqserve_server.gate import GateLimits


class ServerMetrics(Collector):
    """What is asked for at a scrape.

    Args:
        ready: Whether health says SERVING.
        open_requests: Requests that were let in and have not ended.
    """

    def __init__(
        self, ready: Callable[[], bool], open_requests: Callable[[], int], limits: GateLimits
    ) -> None:
        self._ready, self._open_requests, self._limits = ready, open_requests, limits
        self._build = {
            "version": __version__, "python": platform.python_version(), "onnxruntime": _installed("onnxruntime"),
            "grpcio": _installed("grpcio"),
        }

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        limits = self._limits
        for name, text, value in (
            ("seqserve_ready", "1 while health says SERVING.", int(self._ready())),
            ("seqserve_requests_open", "Requests let in that have not ended, of all models.", self._open_requests()),
            ("seqserve_max_waiting_requests", "Most requests that wait: --max-waiting.", limits.waiting),
            ("seqserve_max_waiting_tokens", "Most tokens of open requests: --max-waiting-tokens.", limits.tokens),
            ("seqserve_max_waiting_bytes", "Most bytes of open requests: --max-waiting-bytes.", limits.bytes),
            ("seqserve_max_rows", "Most sequences decoded at once: --max-rows.", limits.rows),
        ):
            yield GaugeMetricFamily(name, text, value)
        build = GaugeMetricFamily("seqserve_build_info", "Always 1.", labels=list(self._build))
        build.add_metric(list(self._build.values()), 1)
        yield build


def make_registry() -> CollectorRegistry:
    """A registry of this server's own, so that two servers in one process do not meet, with the process's metrics."""
    # Else a time of creation stands beside each of 200 counters, which nothing reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


def _installed(name: str) -> str:
    for package in (name, f"{name}-gpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "none"
