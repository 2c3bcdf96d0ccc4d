"""Points of latency against rate, pooled over rounds: percentiles, goodput, ratios within a round, Markdown. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from offered import Outcome
from seqserve_client.load import Load
from seqserve_client.report import percentile
from spread import Spread, table

DISTURBED = 0.1  # foreign processor seconds per second from which a point is worth a warning
COMPARED = 0.7  # of the slower system's capacity: busy, but nobody would call it overload
GOOD = 0.99  # part of requests within the limit up to which a rate counts as served


@dataclass(frozen=True)
class Point:
    """One system under one load in one round.

    Attributes:
        fraction: Of the slower system's capacity, or None where 64 requests were kept in flight.
        rate: Intended arrivals per second; 0 in a closed loop.
        seconds: During which requests were sent.
        throughput: Answers per second, the wait for the last one included.
        latencies: Milliseconds from the intended time, ascending.
        failed: Requests that ended in an error.
        generator: Processor seconds of the generator per second.
        foreign: Processor seconds of everything else on the machine, and of other virtual machines, per second.
    """

    system: str
    fraction: float | None
    rate: float
    round: int
    seconds: float
    throughput: float
    tokens: int
    latencies: list[float]
    failed: int
    generator: float
    foreign: float

    @classmethod
    def of(
        cls, system: str, fraction: float | None, load: Load, number: int, outcome: Outcome, foreign: float
    ) -> "Point":
        """From what the generator saw."""
        ends = max((sample.ended for sample in outcome.samples), default=0.0)
        seconds, answered = load.duration or ends, outcome.answered
        return cls(
            system, fraction, load.rate or 0.0, number, seconds, len(answered) / max(seconds, ends, 1e-9),
            sum(sample.output_tokens for sample in answered), [round(value, 2) for value in outcome.latencies()],
            len(outcome.samples) - len(answered), outcome.processor_seconds / outcome.seconds, foreign,
        )

    def percentile(self, percent: float) -> float:
        """Milliseconds; NaN where nothing was answered."""
        return percentile(self.latencies, percent) if self.latencies else float("nan")


@dataclass
class Results:
    """All points of one workload."""

    title: str
    slo_ms: float
    ours: str
    theirs: str
    points: list[Point] = field(default_factory=list)

    def select(self, system: str, fraction: float | None) -> list[Point]:
        """All rounds."""
        return [point for point in self.points if point.system == system and point.fraction == fraction]

    def capacity(self, system: str) -> float:
        """Answers per second with 64 requests in flight, median of the rounds."""
        return Spread.of([point.throughput for point in self.select(system, None)]).median

    def fractions(self) -> list[float]:
        """In order."""
        return sorted({point.fraction for point in self.points if point.fraction is not None})

    def pooled(self, system: str, fraction: float) -> list[float]:
        """Latencies of all rounds, ascending."""
        return sorted(value for point in self.select(system, fraction) for value in point.latencies)

    def ratio(self, percent: float, fraction: float) -> Spread:
        """Their percentile over ours, round by round."""
        pairs = zip(self.select(self.theirs, fraction), self.select(self.ours, fraction), strict=True)
        return Spread.of([theirs.percentile(percent) / ours.percentile(percent) for theirs, ours in pairs])

    def within(self, system: str, fraction: float) -> float:
        """Part of the requests that were answered within the limit, failed ones counted as late."""
        points = self.select(system, fraction)
        sent = sum(len(point.latencies) + point.failed for point in points)
        return sum(value <= self.slo_ms for value in self.pooled(system, fraction)) / max(1, sent)

    def served(self, system: str) -> float:
        """The highest rate at which, and below which, enough requests were answered within the limit; 0 if none."""
        best = 0.0
        for fraction in self.fractions():
            if not self.select(system, fraction) or self.within(system, fraction) < GOOD:
                break
            best = self.select(system, fraction)[0].rate
        return best

    def _row(self, system: str, fraction: float) -> list[str]:
        points, pooled = self.select(system, fraction), self.pooled(system, fraction)
        goodput = sum(value <= self.slo_ms for value in pooled) / sum(point.seconds for point in points)
        cells = [f"{percentile(pooled, percent):.0f}" if pooled else "" for percent in (50, 95, 99)]
        return [f"{points[0].rate:.1f} ({fraction:.0%})", system, *cells, f"{goodput:.1f}",
                f"{self.within(system, fraction):.1%}", str(len(pooled))]

    def markdown(self) -> str:
        """Capacities, the table of rates, the comparison."""
        # Beyond the slower one's overload only the faster one was measured.
        rows = [self._row(system, fraction) for fraction in self.fractions() for system in (self.ours, self.theirs)
                if self.select(system, fraction)]
        limit = f"within {self.slo_ms:.0f} ms"
        heads = ["arrivals/s", "system", "p50 ms", "p95 ms", "p99 ms", f"goodput/s, {limit}", limit, "answers"]
        lines = [f"**{self.title}.** " + " ".join(self._sentences()), "", table(heads, rows)]
        return "\n".join([*lines, *self._disturbed()])

    def _sentences(self) -> list[str]:
        systems = (self.ours, self.theirs)
        spread = {name: Spread.of([point.throughput for point in self.select(name, None)]) for name in systems}
        lines = ["Capacity with 64 in flight, answers/s: " + ", ".join(
            f"{name} {spread[name].text(1)}" for name in systems
        ) + ".", f"Of the rates below, {GOOD:.0%} were answered within {self.slo_ms:.0f} ms up to: " + ", ".join(
            f"{name} {self.served(name):.1f}/s" for name in systems
        ) + "."]
        if COMPARED in self.fractions():
            ratios = ", ".join(f"p{percent} {self.ratio(percent, COMPARED).text(2)}" for percent in (50, 95, 99))
            lines.append(f"At {COMPARED:.0%} of the slower one's capacity {self.theirs}'s latency is so many times "
                         f"{self.ours}'s, round by round: {ratios}.")
        busy = Spread.of([point.generator for point in self.points])
        return [*lines, f"The generator took {busy.text(2)} of one core."]

    def _disturbed(self) -> Sequence[str]:
        found = [point for point in self.points if point.foreign > DISTURBED]
        if not found:
            return []
        def load(point: Point) -> str:
            return "64 in flight" if point.fraction is None else f"{point.fraction:.0%}"

        named = ", ".join(
            f"{point.system}, {load(point)}, round {point.round} ({point.foreign:.2f})" for point in found[:8]
        )
        return ["", f"DISTURBED, {len(found)} of {len(self.points)} points with over {DISTURBED} processor seconds a "
                f"second spent by others: {named}{', ...' * (len(found) > 8)}."]

    def to_json(self) -> dict[str, Any]:
        """Everything, every latency included, so that other limits can be asked of it later."""
        return asdict(self)
