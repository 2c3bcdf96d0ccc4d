"""What the access log and traces cost a call: processor time of the server, and latency.

    .venv/bin/python bench/watching_cost.py var/demo-bundle 2>var/bench/watching.log

Servers that differ in nothing else take turns, calls of one source and one token, so that what a call costs besides
the engine is as large a part as it can be. ``off`` is there twice: the difference of the two is the noise. Log lines go
where stderr does; traces to a collector in a process of its own, or to a port where none listens.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine import facts, process_seconds, record
from processes import Server, running, running_server
from seqserve_client import AsyncClient
from spread import Spread, table

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 4
JSON_LOG = ("--log-level", "info", "--log-format", "json", "--access-log")
COLLECTOR = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from collector import Collector
class Forgetful(Collector):
    def Export(self, request, context):
        answer = super().Export(request, context)
        self.requests.clear()
        return answer
with Forgetful() as collector:
    print(collector.endpoint, flush=True)
    threading.Event().wait()
"""


async def turn(target: str, count: int) -> list[float]:
    """Latencies of so many calls, a few at once, in seconds."""
    taken: list[float] = []
    async with AsyncClient(target, max_attempts=1, timeout=60) as client:
        async def calls() -> None:
            for _ in range(count // AT_ONCE):
                begun = time.perf_counter()
                await client.generate(token_ids=[[5, 6, 7]], max_new_tokens=1)
                taken.append(time.perf_counter() - begun)

        await asyncio.gather(*(calls() for _ in range(AT_ONCE)))
    return taken


@contextlib.contextmanager
def servers(bundle: Path) -> Iterator[dict[str, Server]]:
    """All of them, by what they do."""
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(running([sys.executable, "-c", COLLECTOR, str(ROOT / "tests")]))
        endpoint = collector.read_line().strip()
        flags = {
            "off": (), "off, again": (), "access log, JSON": JSON_LOG,
            "access log, text": ("--log-level", "info", "--access-log"), "traces": ("--otlp-endpoint", endpoint),
            "traces, no collector": ("--otlp-endpoint", "http://127.0.0.1:1"),
        }
        yield {name: stack.enter_context(running_server(bundle, "--threads", "1", *each))
               for name, each in flags.items()}


def main() -> int:
    """Print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=2000, help="calls in a turn (%(default)s)")
    given = parser.parse_args()
    spent: dict[str, list[float]] = {}
    latency: dict[str, list[float]] = {}
    with servers(given.bundle) as running_servers:
        for number in range(given.rounds + 1):
            order = list(running_servers.items())
            for name, server in order[number % len(order):] + order[: number % len(order)]:
                before = process_seconds(server.process.pid)
                taken = sorted(asyncio.run(turn(server.target, given.count)))
                if number:  # the first round warms up
                    cost = (process_seconds(server.process.pid) - before) / len(taken)
                    spent.setdefault(name, []).append(1e6 * cost)
                    latency.setdefault(name, []).append(1e6 * taken[len(taken) // 2])
    base = Spread.of(spent["off"]).median
    rows = [
        [name, Spread.of(each).text(0), f"{Spread.of(each).median - base:+.0f}", Spread.of(latency[name]).text(0)]
        for name, each in spent.items()
    ]
    print(table(["", "server, µs a call, median (min - max)", "more than off", "latency p50, µs"], rows))
    print(f"\n{given.bundle.name}, {AT_ONCE} at once. Machine: {'; '.join(facts().values())}.")
    record(ROOT / "var/bench/watching_cost.json", {"microseconds": spent, "latency": latency})
    return 0


if __name__ == "__main__":
    sys.exit(main())
