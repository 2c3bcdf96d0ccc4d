"""What a short request waits behind a long one: 10 new tokens while somebody else's 500 are decoded, and alone.

    .venv/bin/python bench/behind_long.py var/bench/bundle-int8 [--peer var/bench/ctranslate2-float32]

Through gRPC. Short ones come one at a time, at random moments of a long answer, and count where it was still running
when they ended. After each long answer as many go alone. With --peer the same for CTranslate2 behind its window, where
every short one waits for the end of the batch before it, so that only one counts of each long answer.
"""

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import facts, record
from offered import percentiles
from processes import Server, ready_server, running_server
from seqserve_client import AsyncClient
from spread import table
from workload import SEED, THREADS, contents

ROOT = Path(__file__).resolve().parent.parent
LONG, SHORT, PAUSE_SECONDS = 500, 10, 0.05
TIMEOUT = 300.0


@dataclass
class Waits:
    """Milliseconds of short requests, from sending to the answer."""

    behind: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)


class Caller:
    """Sends long and short requests to one server."""

    def __init__(self, client: AsyncClient, per_long: int) -> None:
        self._client, self._per_long = client, per_long
        self._sources, self._random = contents(64), random.Random(SEED)
        self.waits = Waits()

    async def _ask(self, tokens: int) -> float:
        """Milliseconds of one request of random content."""
        begun = time.perf_counter()
        await self._client.generate(
            token_ids=[self._random.choice(self._sources)], min_new_tokens=tokens, max_new_tokens=tokens, beam_size=1
        )
        return (time.perf_counter() - begun) * 1e3

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 2 * PAUSE_SECONDS))

    async def turn(self) -> None:
        """One long answer with short ones behind it, then as many alone."""
        long, counted = asyncio.create_task(self._ask(LONG)), 0
        await asyncio.sleep(PAUSE_SECONDS)  # in its batch, not in the same one
        while not long.done() and counted < self._per_long:
            await self._pause()
            if long.done():
                break
            taken = await self._ask(SHORT)
            # Where batches are closed a short answer comes when the long one is over, which is the point.
            if not long.done() or self._per_long == 1:
                self.waits.behind.append(taken)
                counted += 1
        self.waits.long.append(await long)
        for _ in range(counted):
            await self._pause()
            self.waits.alone.append(await self._ask(SHORT))


async def measure(name: str, server: Server, count: int, per_long: int) -> Waits:
    """Until ``count`` short requests have waited behind a long one."""
    async with AsyncClient(server.target, timeout=TIMEOUT, max_attempts=1) as client:
        warm = Caller(client, 1)
        await warm.turn()
        caller = Caller(client, per_long)
        while len(caller.waits.behind) < count:
            await caller.turn()
            print(f"{name}: {len(caller.waits.behind)} of {count}", file=sys.stderr)
        return caller.waits


def report(found: dict[str, Waits]) -> str:
    """One row a system and place."""
    rows = []
    for name, waits in found.items():
        base = percentiles(sorted(waits.alone))
        for place, values in (("alone", waits.alone), (f"behind {LONG} tokens", waits.behind)):
            figures = percentiles(sorted(values))
            ratios = {key: (value or 0.0) / (base[key] or 1.0) for key, value in figures.items()}
            rows.append([name, place, *(f"{figures[key]:.0f} ({ratios[key]:.2f}x)" for key in ("p50", "p95", "p99")),
                         f"{max(values):.0f}", str(len(values))])
    heads = ["system", f"{SHORT} new tokens", "p50 ms (beside alone)", "p95 ms", "p99 ms", "most ms", "requests"]
    long = "; ".join(f"{name} {sorted(waits.long)[len(waits.long) // 2]:.0f} ms" for name, waits in found.items())
    return f"{table(heads, rows)}\n\nThe long answer took, in the median, with the short ones beside it: {long}."


def main() -> int:
    """Print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=300, help="short requests behind a long one (%(default)s)")
    parser.add_argument("--peer", type=Path, help="a model of CTranslate2's")
    parser.add_argument("--peer-count", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/behind_long.json")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.count, given.peer_count = 10, 2
        given.output = given.output.with_stem("behind_long-quick")
    found: dict[str, Waits] = {}
    with running_server(given.bundle, "--threads", str(THREADS)) as server:
        found["Seqserve"] = asyncio.run(measure("Seqserve", server, given.count, sys.maxsize))
    if given.peer:
        with ready_server([str(given.peers_python), "-m", "peers.ctranslate_server", str(given.peer)]) as server:
            found["CTranslate2"] = asyncio.run(measure("CTranslate2", server, given.peer_count, 1))
    print(report(found))
    print(f"\n{given.bundle.name}, {THREADS} threads. Machine: {'; '.join(facts().values())}.")
    record(given.output, {"milliseconds": {name: vars(waits) for name, waits in found.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
