"""What the gate knows, at a scrape."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from seqserve_server.gate import Gate


class GateMetrics(Collector):
    """Of everything that waits or runs.

    Args:
        waits: Name of each model, and the estimated wait at its gate.
    """

    def __init__(self, gate: Gate, waits: Callable[[], Iterable[tuple[str, float]]]) -> None:
        self._gate, self._waits = gate, waits

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        inside = self._gate.inside
        for name, text, value in (
            ("seqserve_open_tokens", "Tokens that open requests brought and may generate, which --max-waiting-tokens "
             "bounds.", inside.tokens),
            ("seqserve_open_bytes", "Bytes of the messages of open requests, which --max-waiting-bytes bounds.",
             inside.bytes),
        ):
            yield GaugeMetricFamily(name, text, value)
        wait = GaugeMetricFamily(
            "seqserve_estimated_wait_seconds",
            "Seconds that a request which came now would wait for rows, behind all others; 0 while that is unknown.",
            labels=("model_name",),
        )
        for name, seconds in self._waits():
            wait.add_metric((name,), seconds)
        yield wait
