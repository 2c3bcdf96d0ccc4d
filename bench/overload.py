"""Three times as many requests as a server can answer, for minutes: what still gets through, and what refusing costs.

    .venv/bin/python bench/overload.py var/bench/bundle-int8 [--seconds 300]

First the peak: 64 requests in flight, then once more after the overload, which shows whether the server recovers. Then
Poisson arrivals at --factor times that. The queue's bound is what keeps the waiting of admitted requests within the
limit, so it is set here (--max-waiting) and printed. The generator runs on the same cores, and so writes its frames
itself; its share is printed.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import facts, record
from offered import Generator, Outcome, Requests, percentiles, rounded, running_generator
from processes import Server, running_server
from seqserve_client.load import Load
from spread import table
from watch import Memory, Watch, watching
from workload import THREADS

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT = 64
SETTLED = 5.0  # seconds at both ends that do not count: until the queue is full, and while it empties


@dataclass(frozen=True)
class Run:
    """Answers per second before, during and after; what the overload came to; the server meanwhile."""

    before: float
    during: float
    after: float
    outcome: Outcome
    watch: Watch
    peak_megabytes: float


def closed_loop(generator: Generator, server: Server, requests: Requests, seconds: float) -> float:
    """Answers per second."""
    outcome = generator.drive(server, Load(concurrency=IN_FLIGHT, duration=seconds, warmup=2), requests)
    # To the last end, since answers of one length come 64 at a time.
    return len(outcome.answered) / max(sample.ended for sample in outcome.samples)


def measure(given: argparse.Namespace) -> Run:
    """Peak, overload, peak."""
    requests = Requests.of_random_model()
    flags = ("--threads", str(THREADS), "--max-waiting", str(given.max_waiting))
    with running_server(given.bundle, *flags) as server, running_generator("ours.light_generator") as generator:
        closed_loop(generator, server, requests, given.peak_seconds / 4)  # not counted
        before = closed_loop(generator, server, requests, given.peak_seconds)
        rate = given.factor * before
        print(f"peak {before:.1f} answers/s; {rate:.1f} requests/s for {given.seconds:.0f} s", file=sys.stderr)
        with watching(server.process.pid) as watch:
            outcome = generator.drive(server, Load(rate=rate, duration=given.seconds), requests)
        during = outcome.completed_per_second(min(SETTLED, given.seconds / 4), given.seconds)
        after = closed_loop(generator, server, requests, given.peak_seconds)
        return Run(before, during, after, outcome, watch, Memory.of(server.process.pid).peak)


def report(run: Run, given: argparse.Namespace) -> str:
    """Figures, and the server's memory."""
    outcome = run.outcome
    admitted, refused = (percentiles(values) for values in (outcome.latencies(), outcome.refusals()))
    late = sum(sample.sent - sample.intended > 0.1 for sample in outcome.samples)
    good = outcome.per_second(given.seconds, given.slo_ms)
    codes = ", ".join(f"{count} {code}" for code, count in outcome.errors.most_common()) or "none"
    rows = [
        ["answers/s with 64 in flight, before", f"{run.before:.1f}"],
        [f"answers/s at {given.factor:g} times that", f"{run.during:.1f} ({run.during / run.before:.1%})"],
        [f"answered within {given.slo_ms:.0f} ms, per second of arrivals", f"{good:.1f} ({good / run.before:.1%})"],
        ["answers/s with 64 in flight, afterwards", f"{run.after:.1f} ({run.after / run.before:.1%})"],
        ["admitted, p50 / p95 / p99 ms", " / ".join(map(rounded, admitted.values()))],
        ["refused, p50 / p95 / p99 ms from sending", " / ".join(rounded(value, 1) for value in refused.values())],
        ["requests sent, answered", f"{len(outcome.samples)}, {len(outcome.answered)}"],
        ["errors", codes],
        ["sent over 100 ms after their time", str(late)],
        ["generator, cores", f"{outcome.processor_seconds / outcome.seconds:.2f}"],
        ["server, cores", f"{run.watch.cores:.2f}"],
        ["server, most resident ever, MB", f"{run.peak_megabytes:.0f}"],
    ]
    return f"{table(['', ''], rows)}\n\n{run.watch.markdown()}"


def main() -> int:
    """Print the tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="of overload (%(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=20, help="of each closed loop (%(default)s)")
    parser.add_argument("--factor", type=float, default=3.0, help="of the peak (%(default)s)")
    parser.add_argument("--max-waiting", type=int, default=64, help="the server's bound of its queue (%(default)s)")
    parser.add_argument("--slo-ms", type=float, default=3000, help="limit for goodput (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/overload.json")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.peak_seconds, given.output = 8, 4, given.output.with_stem("overload-quick")
    run = measure(given)
    print(report(run, given))
    print(f"\n{given.bundle.name}, {THREADS} threads, --max-waiting {given.max_waiting}, {given.seconds:.0f} s. "
          f"Machine: {'; '.join(facts().values())}.")
    record(given.output, {
        "max_waiting": given.max_waiting, "before": run.before, "during": run.during, "after": run.after,
        "admitted_ms": percentiles(run.outcome.latencies()), "refused_ms": percentiles(run.outcome.refusals()),
        "errors": dict(run.outcome.errors), "server": run.watch.to_json(),
    })
    return 0


if __name__ == "__main__":
    sys.exit(main())
