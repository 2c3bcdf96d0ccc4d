"""From raw samples to figures: percentiles by rank, the JSON result, and the table. Pure functions.

Latencies are counted from the *intended* send time. A load generator that waits for a slow server before it sends the
next request, and counts from there, leaves out just the waiting that users would have seen (coordinated omission).
The figures from the actual send time stand beside them under ``e2el_from_send``.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PERCENTILES = (50, 90, 95, 99)
# Names as in vLLM's benchmark, so that tools which plot its results read ours.
METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "itl": "time between messages of a stream",
    "e2el": "end-to-end latency",
    "e2el_from_send": "end-to-end latency from the actual send",
    "send_delay": "actual send after the intended one",
}
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(slots=True)
class Sample:
    """What became of one request; times are seconds after the start of the test.

    Attributes:
        intended: When the schedule wanted it sent.
        sent: When it was sent.
        ended: When its answer, or its error, was complete.
        token_times: When each message with tokens arrived; empty for a call without stream.
        output_tokens: Generated tokens, the end token included.
        error: Status code of the failure, or None.
    """

    intended: float
    sent: float
    ended: float = 0.0
    token_times: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    def milliseconds(self) -> dict[str, list[float]]:
        """The samples that this request adds to each metric, in milliseconds."""
        seconds = {
            "e2el": [self.ended - self.intended],
            "e2el_from_send": [self.ended - self.sent],
            "send_delay": [self.sent - self.intended],
        }
        if self.token_times:
            first = self.token_times[0]
            seconds["ttft"] = [first - self.intended]
            seconds["itl"] = [
                after - before for before, after in zip(self.token_times[:-1], self.token_times[1:], strict=True)
            ]
            if self.output_tokens > 1:
                seconds["tpot"] = [(self.ended - first) / (self.output_tokens - 1)]
        return {name: [value * 1000 for value in values] for name, values in seconds.items()}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ascending samples that at least ``percent`` of them do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("no samples")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile is above 0 and at most 100, not {percent}")
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def summary(name: str, samples: Sequence[float]) -> dict[str, float | None]:
    """Mean, median, standard deviation and percentiles of one metric; None where there are no samples."""
    ordered = sorted(samples)
    figures: dict[str, float | None] = {
        f"mean_{name}_ms": statistics.fmean(ordered) if ordered else None,
        f"median_{name}_ms": statistics.median(ordered) if ordered else None,
        f"std_{name}_ms": statistics.pstdev(ordered) if ordered else None,
    }
    for percent in PERCENTILES:
        figures[f"p{percent}_{name}_ms"] = percentile(ordered, percent) if ordered else None
    return figures


def is_good(sample: Sample, limits: Mapping[str, float]) -> bool:
    """Whether a request succeeded within every limit, in milliseconds by metric; a metric it lacks is kept."""
    if sample.error is not None:
        return False
    values = sample.milliseconds()
    return all(value <= limit for name, limit in limits.items() for value in values.get(name, ()))


def result(samples: Sequence[Sample], limits: Mapping[str, float]) -> dict[str, Any]:
    """The whole result, ready for JSON.

    Args:
        samples: One per request of the measured part.
        limits: Milliseconds by metric, for goodput; empty where none were asked for.
    """
    completed = [sample for sample in samples if sample.error is None]
    start = min((sample.intended for sample in samples), default=0.0)
    duration = max((sample.ended for sample in samples), default=0.0) - start

    def rate(count: int) -> float:
        return count / duration if duration > 0 else 0.0

    output_tokens = sum(sample.output_tokens for sample in completed)
    input_tokens = sum(sample.input_tokens for sample in completed)
    good = sum(is_good(sample, limits) for sample in samples)
    figures: dict[str, Any] = {
        "duration": duration,
        "completed": len(completed),
        "failed": len(samples) - len(completed),
        "errors": dict(Counter(sample.error for sample in samples if sample.error is not None)),
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": rate(len(completed)),
        "request_goodput": rate(good) if limits else None,
        "output_throughput": rate(output_tokens),
        "total_token_throughput": rate(input_tokens + output_tokens),
    }
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for sample in completed:
        for name, added in sample.milliseconds().items():
            values[name] += added
    for name in METRICS:
        figures |= summary(name, values[name])
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"requests    {figures['completed']} completed, {figures['failed']} failed, in {figures['duration']:.2f} s",
        f"throughput  {figures['request_throughput']:.2f} requests/s, {figures['output_throughput']:.1f} tokens/s",
    ]
    if figures["request_goodput"] is not None:
        lines.append(f"goodput     {figures['request_goodput']:.2f} requests/s within the limits")
    lines += [f"error       {count} x {code}" for code, count in sorted(figures["errors"].items())]
    columns = ["mean", *(f"p{percent}" for percent in PERCENTILES)]
    shown = {name: text for name, text in METRICS.items() if figures[f"mean_{name}_ms"] is not None}
    if shown:
        width = max(map(len, shown.values()))
        lines.append("")
        lines.append(f"{'milliseconds':<{width}}" + "".join(f"{column:>10}" for column in columns))
        for name, text in shown.items():
            cells = "".join(f"{figures[f'{column}_{name}_ms']:>10.2f}" for column in columns)
            lines.append(f"{text:<{width}}{cells}")
        lines.append("latencies count from the intended send time unless they say otherwise")
    return "\n".join(lines)
