"""Worker: closed-loop clients of a running server. Run as ``python -m ours.clients HOST:PORT``.

One client per source: each sends one source in one call, waits for the answer, and sends the same again.
"""

import asyncio
import sys
import time
from importlib.metadata import version

from seqserve_client import AsyncClient
from worker import Sources, Turn, serve
from workload import NEW_TOKENS, THREADS, Job


async def turn(job: Job, sources: Sources, repeats: int) -> Turn:
    """Every client makes ``repeats`` calls; the clock runs from the first call to the last answer."""
    async with AsyncClient(job.subject, max_attempts=1) as client:

        async def loop(source: list[int]) -> list[int]:
            token_ids: list[int] = []
            for _ in range(repeats):
                results = await client.generate(
                    token_ids=[source], min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, beam_size=job.beam_size
                )
                token_ids = results[0].hypotheses[0].token_ids
            return token_ids

        if not await client.health():  # connects, too: no part of what is measured
            raise RuntimeError(f"{job.subject} is not serving")
        begun = time.perf_counter()
        outputs = await asyncio.gather(*(loop(source) for source in sources))
        return Turn(time.perf_counter() - begun, outputs)


def main() -> int:
    """Answer commands. Connections last one turn, because the server is stopped between turns."""
    job = Job.read()
    versions = {"seqserve": version("seqserve"), "grpcio": version("grpcio")}
    settings = f"one client per source, one source per call; server with {THREADS} threads"
    return serve("Seqserve over gRPC", versions, settings, lambda s, n: asyncio.run(turn(job, s, n)))


if __name__ == "__main__":
    sys.exit(main())
