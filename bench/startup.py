"""How long a server takes to be ready, and what it costs while nobody asks.

    .venv/bin/python bench/startup.py BUNDLE [BUNDLE ...]

From the start of the process to its line that says it is ready, files warm in the page cache; bundles in turns. Then
the processor time of a ready server during --idle seconds without a call, and again after 64 requests.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import TICK, facts, process_seconds, record
from processes import running_server
from seqserve_client import AsyncClient
from spread import Spread, table
from watch import Memory
from workload import NEW_TOKENS, THREADS

ROOT = Path(__file__).resolve().parent.parent
SETTLE_SECONDS, REQUESTS = 2.0, 64


@dataclass
class Start:
    """Seconds to be ready, and to the first answer; then percent of one core, and megabytes."""

    ready: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    idle_fresh: float = 0.0
    idle_used: float = 0.0
    resident: float = 0.0
    own: float = 0.0


async def ask(target: str, count: int) -> None:
    """Requests of the least that every vocabulary has, all at once."""
    async with AsyncClient(target, max_attempts=1) as client:
        await asyncio.gather(*(client.generate(token_ids=[[5, 6, 7]], max_new_tokens=NEW_TOKENS) for _ in range(count)))


def idle(pid: int, seconds: float) -> float:
    """Percent of one core."""
    time.sleep(SETTLE_SECONDS)
    before, begun = process_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    return 100 * (process_seconds(pid) - before) / (time.perf_counter() - begun)


def measure(bundles: Sequence[Path], count: int, seconds: float) -> dict[str, Start]:
    """All bundles in turns, ``count`` times; idleness with the last start."""
    found = {bundle.name: Start() for bundle in bundles}
    for number in range(count):
        for bundle in bundles:
            start, begun = found[bundle.name], time.perf_counter()
            with running_server(bundle, "--threads", str(THREADS)) as server:
                start.ready.append(time.perf_counter() - begun)
                asyncio.run(ask(server.target, 1))
                start.answered.append(time.perf_counter() - begun)
                print(f"{bundle.name}: ready after {start.ready[-1]:.2f} s", file=sys.stderr)
                if number == count - 1:
                    pid = server.process.pid
                    start.idle_fresh = idle(pid, seconds)
                    memory = Memory.of(pid)
                    start.resident, start.own = memory.resident, memory.own
                    asyncio.run(ask(server.target, REQUESTS))
                    start.idle_used = idle(pid, seconds)
    return found


def report(found: dict[str, Start], seconds: float) -> str:
    """One row a bundle."""
    rows = [
        [name, Spread.of(start.ready).text(2), Spread.of(start.answered).text(2), f"{start.idle_fresh:.2f} %",
         f"{start.idle_used:.2f} %", f"{start.resident:.0f}", f"{start.own:.0f}"] for name, start in found.items()
    ]
    heads = ["bundle", "ready after s, median (min - max)", "first answer after s", "idle, of one core",
             f"idle after {REQUESTS} requests", "resident, MB", "own, MB"]
    starts = len(next(iter(found.values())).ready)
    note = f"{starts} starts each, in turns; idle over {seconds:.0f} s, counted in ticks of {1000 / TICK:.0f} ms."
    return f"{table(heads, rows)}\n\n{note}"


def main() -> int:
    """Print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=7, help="starts of each bundle (%(default)s)")
    parser.add_argument("--idle", type=float, default=10, help="seconds (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/startup.json")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.count, given.idle, given.output = 2, 2, given.output.with_stem("startup-quick")
    found = measure(given.bundles, given.count, given.idle)
    print(report(found, given.idle))
    print(f"\n{THREADS} threads. Machine: {'; '.join(facts().values())}.")
    record(given.output, {"bundles": {name: vars(start) for name, start in found.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
