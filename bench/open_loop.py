"""Latency against arrival rate: Seqserve int8, and CTranslate2 int8 behind a window of dynamic batching.

    .venv/bin/python bench/open_loop.py DATA           three workloads, about 50 minutes
    .venv/bin/python bench/open_loop.py DATA --quick   a look whether it works

First each system's capacity, with 64 requests in flight; then Poisson arrivals at parts of the slower one's capacity,
both systems at the same times with the same sources. Latency counts from the intended time. Only the system under test
runs, with the generator, a process of its own on the same cores; rounds are A B, B A.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import latency_plot
from latency_report import Point, Results
from machine import Usage, facts, process_seconds, record
from offered import Generator, Requests, running_generator
from processes import Server, ready_server, running_server
from seqserve_client.load import Load
from workload import THREADS

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "demo/en-de/tokenizer.json"
OURS, THEIRS = "Seqserve", "CTranslate2"
FRACTIONS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
BEYOND = (0.7, 0.9, 1.0, 1.1)  # of the faster one's own capacity, measured for it alone: where its curve bends
IN_FLIGHT = 64


@dataclass(frozen=True)
class Workload:
    """A model in both forms, and the latency that its users accept."""

    title: str
    bundle: str
    peer: str
    peer_flags: tuple[str, ...]
    slo_ms: float


WORKLOADS = {
    "random": Workload(
        "61 M random model, 20 source tokens, 24 forced new tokens", "bench/bundle-int8", "bench/ctranslate2-float32",
        (), 1000,
    ),
    "grown": Workload(
        "demo model grown to 61 M, sentences of test_2016, natural ends", "bench/grown/bundle-int8",
        "bench/grown/ctranslate2", ("--tokenizer", str(TOKENIZER)), 1000,
    ),
    "demo": Workload(
        "2.3 M demo model, sentences of test_2016, natural ends", "demo-int8", "bench/demo-peers/ctranslate2",
        # Its products are too small for two threads: two batches at a time answered a tenth more.
        ("--tokenizer", str(TOKENIZER), "--inter-threads", "2", "--intra-threads", "1"), 250,
    ),
}


@dataclass(frozen=True)
class Plan:
    """How long, how often."""

    seconds: float
    least: int
    rounds: int
    fractions: Sequence[float]
    beyond: Sequence[float]


class Systems:
    """Both servers, stopped but for the one under test, and the generator."""

    def __init__(self, servers: dict[str, Server], generator: Generator, requests: Requests) -> None:
        self._servers, self._generator, self._requests = servers, generator, requests
        for server in servers.values():
            server.process.pause()

    def measure(self, name: str, load: Load, fraction: float | None, number: int) -> Point:
        """One system under one load."""
        server, pids = self._servers[name], [self._servers[name].process.pid, self._generator.process.pid]
        server.process.resume()
        usage, own = Usage.now(), sum(map(process_seconds, pids))
        try:
            outcome = self._generator.drive(server, load, self._requests)
        finally:
            server.process.pause()
        after = Usage.now()
        own = sum(map(process_seconds, pids)) - own
        foreign = max(0.0, after.busy - usage.busy - own) + after.stolen - usage.stolen
        return Point.of(name, fraction, load, number, outcome, foreign / outcome.seconds)


@contextlib.contextmanager
def running_systems(work: Path, peers_python: Path, workload: Workload, requests: Requests,
                    flags: Sequence[str]) -> Iterator[Systems]:
    """Both, ready and stopped."""
    peer = [str(peers_python), "-m", "peers.ctranslate_server", str(work / workload.peer), *workload.peer_flags, *flags]
    with (
        running_server(work / workload.bundle, "--threads", str(THREADS)) as ours, ready_server(peer) as theirs,
        running_generator() as generator,
    ):
        yield Systems({OURS: ours, THEIRS: theirs}, generator, requests)


def run(plan: Plan, systems: Systems, results: Results) -> None:
    """Capacities, then every rate in every round."""
    def measure(name: str, load: Load, fraction: float | None, number: int) -> None:
        point = systems.measure(name, load, fraction, number)
        results.points.append(point)
        part = "64 in flight" if fraction is None else f"{fraction:4.0%} {point.rate:6.1f}/s"
        print(f"round {number}  {part:14} {name:12} {point.throughput:6.1f} answers/s  p50 {point.percentile(50):7.1f} "
              f"p99 {point.percentile(99):7.1f} ms", file=sys.stderr)

    for name in (OURS, THEIRS):  # not counted: first runs allocate memory and choose kernels
        systems.measure(name, Load(concurrency=IN_FLIGHT, requests=2 * IN_FLIGHT), None, 0)
    for number, names in enumerate(((OURS, THEIRS), (THEIRS, OURS)), 1):
        for name in names:
            measure(name, Load(concurrency=IN_FLIGHT, duration=plan.seconds, warmup=2, seed=number), None, number)
    _, faster = sorted((OURS, THEIRS), key=results.capacity)
    slower = min(results.capacity(name) for name in (OURS, THEIRS))
    beyond = [part * results.capacity(faster) / slower for part in plan.beyond]
    beyond = [fraction for fraction in beyond if fraction > max(plan.fractions)]
    for number in range(1, plan.rounds + 1):
        for fraction in (*plan.fractions, *beyond):
            load = Load(
                rate=fraction * slower, duration=max(plan.seconds, plan.least / (fraction * slower)), warmup=2,
                seed=number,
            )
            both = (OURS, THEIRS) if number % 2 else (THEIRS, OURS)
            for name in (faster,) if fraction in beyond else both:
                measure(name, load, fraction, number)


def main() -> int:
    """Measure, print the tables, write JSON, Markdown and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en or its .gz")
    parser.add_argument("--workload", nargs="+", choices=sorted(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--work", type=Path, default=ROOT / "var", help="directory with bench/ and the demo bundle")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/open_loop.png")
    parser.add_argument("--seconds", type=float, default=20, help="of arrivals at a point (%(default)s)")
    parser.add_argument("--least", type=int, default=200, help="requests at a point, at least (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=FRACTIONS, metavar="PART",
        help="arrival rates, as parts of the slower one's capacity",
    )
    parser.add_argument("--peer-flags", nargs=argparse.REMAINDER, default=[], help="for the peer's server; last")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    plan = Plan(given.seconds, given.least, given.rounds, given.fractions, BEYOND)
    if given.quick:
        plan = Plan(2, 1, 1, (0.3, 0.7, 1.0), (1.0,))
        given.plot = given.work / "bench/open_loop-quick.png"
    collected: list[Results] = []
    for name in given.workload:
        workload = WORKLOADS[name]
        requests = Requests.of_random_model() if name == "random" else Requests.of_sentences(given.data)
        results = Results(workload.title, workload.slo_ms, OURS, THEIRS)
        with running_systems(given.work, given.peers_python, workload, requests, given.peer_flags) as systems:
            run(plan, systems, results)
        collected.append(results)
    notes = f"int8, greedy, {THREADS} threads each; rounds A B, B A; percentiles over all rounds. CTranslate2: a "
    notes += "window of 5 ms, 64 at most; " + "; ".join(
        f"{name} {' '.join([*WORKLOADS[name].peer_flags[2:], *given.peer_flags]) or 'one batch at a time on 2 threads'}"
        for name in given.workload
    ) + ".\n"
    notes += f"Machine: {'; '.join(facts().values())}.\nCommand: `bench/open_loop.py {' '.join(sys.argv[1:])}`."
    text = "\n\n".join([*(results.markdown() for results in collected), notes])
    print(text)
    stem = given.work / f"bench/open_loop{'-quick' * given.quick}"
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    record(stem.with_suffix(".json"), {"workloads": [results.to_json() for results in collected]})
    latency_plot.draw(collected, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
