"""Three times as many requests as a server can answer, for minutes: what still gets through, and what refusing costs.

    .venv/bin/python bench/overload.py var/bench/bundle-int8 [--seconds 300]

Goodput is what is answered within --slo-ms. Its peak is looked for first, and once more afterwards: Poisson arrivals at
some rates around what a closed loop of 64 requests gets. Then come --factor times as many as the best of them brought,
for --seconds. The closed loop is more than any arrivals get: its answers, all of one length, begin and end together.

The queue's bound is what keeps the waiting of admitted requests within the limit, so it is set here (--max-waiting) and
printed. The generator runs on the same cores, and so writes its frames itself; its share is printed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from machine import facts, record
from offered import Generator, Outcome, Requests, percentiles, rounded, running_generator
from processes import Server, running_server
from seqserve_client.load import Load
from spread import table
from watch import Memory, Watch, watching
from workload import THREADS

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT = 64
FRACTIONS = (0.7, 0.8, 0.9, 1.0, 1.1)  # of the closed loop, where the peak is looked for
SETTLED = 5.0  # seconds at the beginning that do not count: until the queue is as long as it gets


@dataclass(frozen=True)
class Goodput:
    """What came of one rate of arrivals; all per second. ``good`` is answers within the limit."""

    rate: float
    good: float
    refused: float

    @classmethod
    def of(cls, outcome: Outcome, rate: float, seconds: float, slo_ms: float) -> "Goodput":
        """Of what was answered once the load had settled."""
        good = outcome.completed_per_second(min(SETTLED, seconds / 4), seconds, slo_ms)
        return cls(rate, good, sum(outcome.errors.values()) / seconds)


@dataclass(frozen=True)
class Run:
    """Closed loops and curves before and after; what the overload came to; the server meanwhile."""

    closed: Sequence[float]
    curves: Sequence[Sequence[Goodput]]
    overload: Goodput
    outcome: Outcome
    watch: Watch
    peak_megabytes: float

    @property
    def curve(self) -> list[Goodput]:
        """Rate by rate, the mean of before and after."""
        return [
            Goodput(points[0].rate, mean(point.good for point in points), mean(point.refused for point in points))
            for points in zip(*self.curves, strict=True)
        ]

    @property
    def peak(self) -> float:
        """The most answers in time per second that any of the rates brought."""
        return max(point.good for point in self.curve)


def closed_loop(generator: Generator, server: Server, requests: Requests, seconds: float) -> float:
    """Answers per second."""
    outcome = generator.drive(server, Load(concurrency=IN_FLIGHT, duration=seconds, warmup=2), requests)
    # To the last end, since answers of one length come 64 at a time.
    return len(outcome.answered) / max(sample.ended for sample in outcome.samples)


def curve(
    generator: Generator, server: Server, requests: Requests, rates: Sequence[float], given: argparse.Namespace
) -> list[Goodput]:
    """Each rate for a while."""
    points = []
    for rate in rates:
        outcome = generator.drive(server, Load(rate=rate, duration=given.peak_seconds), requests)
        points.append(Goodput.of(outcome, rate, given.peak_seconds, given.slo_ms))
        print(f"{rate:.1f} requests/s: {points[-1].good:.1f} answered in time", file=sys.stderr)
    return points


def measure(given: argparse.Namespace) -> Run:
    """Peak, overload, peak."""
    requests = Requests.of_random_model()
    flags = ("--threads", str(THREADS), "--max-waiting", str(given.max_waiting))
    with running_server(given.bundle, *flags) as server, running_generator("ours.light_generator") as generator:
        closed_loop(generator, server, requests, given.peak_seconds / 4)  # not counted
        closed = [closed_loop(generator, server, requests, given.peak_seconds)]
        rates = [fraction * closed[0] for fraction in FRACTIONS]
        curves = [curve(generator, server, requests, rates, given)]
        rate = given.factor * max(point.good for point in curves[0])
        print(f"{rate:.1f} requests/s for {given.seconds:.0f} s", file=sys.stderr)
        with watching(server.process.pid) as watch:
            outcome = generator.drive(server, Load(rate=rate, duration=given.seconds), requests)
        curves.append(curve(generator, server, requests, rates, given))
        closed.append(closed_loop(generator, server, requests, given.peak_seconds))
        overload = Goodput.of(outcome, rate, given.seconds, given.slo_ms)
        return Run(closed, curves, overload, outcome, watch, Memory.of(server.process.pid).peak)


def report(run: Run, given: argparse.Namespace) -> str:
    """Figures, and the server's memory."""
    outcome, overload = run.outcome, run.overload
    admitted, refused = (percentiles(values) for values in (outcome.latencies(), outcome.refusals()))
    late = sum(sample.sent - sample.intended > 0.1 for sample in outcome.samples)
    codes = ", ".join(f"{count} {code}" for code, count in outcome.errors.most_common()) or "none"
    rows = [
        ["answered in time per second at most, of any rate", f"{run.peak:.1f}"],
        [f"at {overload.rate:.0f} arrivals/s, {given.factor:g} times the peak before",
         f"{overload.good:.1f} ({overload.good / run.peak:.1%})"],
        ["answers/s with 64 in flight, before and afterwards",
         " and ".join(f"{one:.1f}" for one in run.closed) + f" ({overload.good / mean(run.closed):.1%} of their mean)"],
        ["admitted, p50 / p95 / p99 ms", " / ".join(map(rounded, admitted.values()))],
        ["refused, p50 / p95 / p99 ms from sending", " / ".join(rounded(value, 1) for value in refused.values())],
        ["requests sent, answered", f"{len(outcome.samples)}, {len(outcome.answered)}"],
        ["errors", codes],
        ["sent over 100 ms after their time", str(late)],
        ["generator, cores", f"{outcome.processor_seconds / outcome.seconds:.2f}"],
        ["server, cores", f"{run.watch.cores:.2f}"],
        ["server, most resident ever, MB", f"{run.peak_megabytes:.0f}"],
    ]
    points = [
        [f"{both[0].rate:.1f}", *(f"{point.good:.1f}" for point in both), *(f"{point.refused:.1f}" for point in both)]
        for both in zip(*run.curves, strict=True)
    ]
    heads = ["arrivals/s", "answered in time, before", "afterwards", "refused, before", "afterwards"]
    return f"{table(heads, points)}\n\n{table(['', ''], rows)}\n\n{run.watch.markdown()}"


def main() -> int:
    """Print the tables, draw the curve, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="of overload (%(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=20, help="of each closed loop and rate (%(default)s)")
    parser.add_argument("--factor", type=float, default=3.0, help="of the peak (%(default)s)")
    parser.add_argument("--max-waiting", type=int, default=64, help="the server's bound of its queue (%(default)s)")
    parser.add_argument("--slo-ms", type=float, default=3000, help="limit for goodput (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/overload.json")
    parser.add_argument("--picture", type=Path, help="where to draw goodput against arrivals")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.peak_seconds, given.output = 8, 4, given.output.with_stem("overload-quick")
    run = measure(given)
    print(report(run, given))
    print(f"\n{given.bundle.name}, {THREADS} threads, --max-waiting {given.max_waiting}, {given.seconds:.0f} s. "
          f"Machine: {'; '.join(facts().values())}.")
    record(given.output, {
        "max_waiting": given.max_waiting, "closed": list(run.closed), "peak": run.peak,
        "curves": [[asdict(point) for point in points] for points in run.curves], "overload": asdict(run.overload),
        "admitted_ms": percentiles(run.outcome.latencies()), "refused_ms": percentiles(run.outcome.refusals()),
        "errors": dict(run.outcome.errors), "server": run.watch.to_json(),
    })
    if given.picture is not None:
        from overload_plot import draw

        draw(run.curve, run.overload, run.closed, given.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
