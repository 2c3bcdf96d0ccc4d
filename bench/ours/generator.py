"""Worker: the load generator, in a process of its own. Run as ``python -m ours.generator``.

One JSON object a line. In: ``{"target", "timeout", "load", "sources", "options"}``, the load being the fields of
``seqserve_client.load_test.Load``. Out: ``{"samples", "processor_seconds", "seconds"}``, a sample being the list
``[intended, sent, ended, output tokens, error]``, times in seconds after the start.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from seqserve_client import AsyncClient
from seqserve_client.load_test import Load, LoadTest, Source
from seqserve_client.report import Sample

SHOW_SECONDS = 15.0  # between lines that tell how far a long load is


def in_seeded_order(seed: int, sources: list[Source]) -> Iterator[Source]:
    """All again and again, each time in another order."""
    generator = random.Random(seed)
    while True:
        yield from generator.sample(sources, len(sources))


async def drive(command: dict[str, Any]) -> list[Sample]:
    """Send what is asked for; without retries, since a refusal is a result."""
    load = Load(**command["load"])
    sources = in_seeded_order(load.seed, command["sources"])
    shown = time.monotonic()

    def show(ended: int, failed: int) -> None:
        nonlocal shown
        if (now := time.monotonic()) >= shown + SHOW_SECONDS:
            shown = now
            print(f"{ended} ended, {failed} of them failed", file=sys.stderr)

    async with AsyncClient(command["target"], timeout=command["timeout"], max_attempts=1) as client:
        return await LoadTest(client, load, sources, command["options"], progress=show).run()


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
