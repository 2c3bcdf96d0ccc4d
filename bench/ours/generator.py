"""Worker: the load generator, in a process of its own. Run as ``python -m ours.generator``.

One JSON object a line. In: ``{"target", "timeout", "load", "sources", "options"}``, the load being fields of
``seqserve_client.load.Load``. Out: ``{"samples", "processor_seconds", "seconds"}``, a sample being the list
``[intended, sent, ended, output tokens, error]``, times in seconds after the start.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from seqserve_client import AsyncClient
from seqserve_client.load import Load, Work
from seqserve_client.load_test import LoadTest
from seqserve_client.report import Sample

SHOW_SECONDS = 15.0  # between lines that tell how far a long load is
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Shuffled(Generic[Kind]):
    """All sources again and again, each time in another order: as ``TextInputs``, but of whatever stands for them."""

    seed: int
    sources: Sequence[Kind]

    def at(self, number: int) -> Kind:
        """The source of a request."""
        turn, place = divmod(number, len(self.sources))
        return self.sources[_order(self.seed, turn, len(self.sources))[place]]


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> list[int]:
    return random.Random(f"{seed} {turn}").sample(range(count), count)


async def show(test: LoadTest) -> None:
    """How far it is, until cancelled."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(SHOW_SECONDS)
        seconds = time.monotonic() - begun
        print(test.tally.line(seconds, test.tally.ended / seconds), file=sys.stderr)


async def drive(command: dict[str, Any]) -> list[Sample]:
    """Send what is asked for; without retries, since a refusal is a result."""
    load = Load(**command["load"])
    work = Work(Shuffled(load.seed, command["sources"]), command["options"])
    async with AsyncClient(command["target"], timeout=command["timeout"], max_attempts=1) as client:
        test = LoadTest(client, load, work)
        await test.warm_up()
        showing = asyncio.create_task(show(test))
        try:
            return await test.run()
        finally:
            showing.cancel()


def main() -> int:
    """Answer commands until stdin ends."""
    for line in sys.stdin:
        begun, spent = time.perf_counter(), time.process_time()
        samples = asyncio.run(drive(json.loads(line)))
        print(json.dumps({
            "samples": [[one.intended, one.sent, one.ended, one.output_tokens, one.error] for one in samples],
            "processor_seconds": time.process_time() - spent, "seconds": time.perf_counter() - begun,
        }), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
