"""Metrics of the process and of the server as a whole; those of a model are in ``metrics``."""

import math
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from seqserve import __version__
from seqserve_server.certificates import Certificate
from seqserve_server.gate import GateLimits
from seqserve_server.tokens import Token
from seqserve_server.watched_files import WatchedFiles


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


class QuarantineMetrics(Collector):
    """Of requests that the crash journal knows; ``counts`` gives how many are suspects, and how many are refused."""

    def __init__(self, counts: Callable[[], tuple[int, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        suspects, refused = self._counts()
        yield GaugeMetricFamily(
            "seqserve_suspect_requests", "Distinct requests that run one at a time: in the engine at an unclean end.",
            suspects,
        )
        yield GaugeMetricFamily(
            "seqserve_quarantined_requests", "Distinct requests that are refused: in the engine at two unclean ends.",
            refused,
        )


class RenewalMetrics(Collector):
    """Of the certificate and the tokens, which are read again when their files change; None where there are none.

    A scrape looks at the files too, so that a change is counted before somebody connects.
    """

    def __init__(
        self, certificate: WatchedFiles[Certificate] | None, tokens: WatchedFiles[tuple[Token, ...]] | None
    ) -> None:
        self._certificate, self._tokens = certificate, tokens

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        renewals = CounterMetricFamily(
            "seqserve_file_renewals", "Changed files of the certificate or the tokens, by what came of them.",
            labels=("file", "result"),
        )
        expires = math.inf if self._certificate is None else self._certificate.current().expires
        if self._tokens is not None:
            self._tokens.current()
        for name, watched in (("certificate", self._certificate), ("tokens", self._tokens)):
            renewed, refused = watched.counts if watched is not None else (0, 0)
            renewals.add_metric((name, "renewed"), renewed)
            renewals.add_metric((name, "refused"), refused)
        yield renewals
        yield GaugeMetricFamily(
            "seqserve_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in Unix time; +Inf without TLS.", expires,
        )


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
