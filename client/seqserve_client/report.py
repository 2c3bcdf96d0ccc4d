"""From raw samples to figures: percentiles by rank, and the JSON result. Pure functions.

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
# A generator beyond these is told of. An idle one is late by the millisecond that its event loop rounds to, and Python
# runs on one core at a time.
LATE_MS = 10.0
LATE_PART = 0.05
BUSY_RATIO = 0.9


@dataclass(slots=True)
class Sample:
    """What became of one request; times are seconds after the start of the test.

    Attributes:
        intended: When the schedule wanted it sent.
        sent: When it was sent.
        ready: When the generator had got to it: later than intended where the generator itself was late. From here
            until ``sent`` it waited for a place under the cap on requests in flight.
        kind: Name of its kind.
        ended: When its answer, or its error, was complete.
        token_times: When each message with tokens arrived; empty for a call without stream.
        output_tokens: Generated tokens, the end token included.
        error: Status code of the failure, or None.
        error_text: Its message.
    """

    intended: float
    sent: float
    ended: float = 0.0
    token_times: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    error_text: str = ""
    ready: float = 0.0
    kind: str = ""

    @property
    def lag_ms(self) -> float:
        """Milliseconds by which the generator was late."""
        return max(0.0, self.ready - self.intended) * 1000

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


def result(samples: Sequence[Sample], limits: Mapping[str, float], duration: float | None = None) -> dict[str, Any]:
    """The whole result, ready for JSON.

    Args:
        samples: One per request of the measured part.
        limits: Milliseconds by metric, for goodput; empty where none were asked for.
        duration: Seconds that rates refer to; None for those from the first intended time to the last end.
    """
    completed = [sample for sample in samples if sample.error is None]
    if duration is None:
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
        "error_examples": {sample.error: sample.error_text for sample in samples if sample.error is not None},
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


def kinds(samples: Sequence[Sample], limits: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The result of each kind of request by itself, by name; rates are per second of the whole test."""
    names = sorted({sample.kind for sample in samples})
    whole = result(samples, limits)["duration"]
    return {name: result([sample for sample in samples if sample.kind == name], limits, whole) for name in names}


@dataclass(frozen=True, slots=True)
class Part:
    """What one client process measured.

    Attributes:
        samples: In the order of ends; times count from the start that all processes share.
        processor_seconds: Processor time that the process used for it.
        seconds: How long that took.
    """

    samples: list[Sample]
    processor_seconds: float
    seconds: float


def merged(parts: Sequence[Part]) -> list[Sample]:
    """Samples of all processes by intended time, and by end where that is the same."""
    return sorted(
        (sample for part in parts for sample in part.samples), key=lambda sample: (sample.intended, sample.ended)
    )


def clients(parts: Sequence[Part]) -> list[dict[str, float]]:
    """How each client process fared, ready for JSON: whether its figures say something of itself."""
    return [
        {
            "requests": len(part.samples),
            "processor_ratio": part.processor_seconds / part.seconds if part.seconds > 0 else 0.0,
            "p99_lag_ms": percentile(sorted(sample.lag_ms for sample in part.samples), 99) if part.samples else 0.0,
        }
        for part in parts
    ]


def generator_warnings(found: Sequence[Mapping[str, float]], latency_ms: float | None) -> list[str]:
    """What to say of clients, as ``clients`` gives them, that were too slow to be believed; mostly nothing.

    Args:
        found: One record per client process.
        latency_ms: The p99 of the end-to-end latency, beside which a delay may be small; None where nothing succeeded.
    """
    bound = max(LATE_MS, LATE_PART * (latency_ms or 0.0))
    slow = {
        number: client for number, client in enumerate(found)
        if client["p99_lag_ms"] > bound or client["processor_ratio"] > BUSY_RATIO
    }
    if not slow:
        return []
    told = "; ".join(
        f"client {number} was {client['p99_lag_ms']:.0f} ms late at p99, at {client['processor_ratio']:.0%} of a core"
        for number, client in slow.items()
    )
    busy = any(client["processor_ratio"] > BUSY_RATIO for client in slow.values())
    way_out = "take more --processes" if busy else "its machine was busy with something else, perhaps with the server"
    return [f"the generator could not keep up, part of the latency is its own: {told}; {way_out}"]
