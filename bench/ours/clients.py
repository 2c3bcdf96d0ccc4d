"""Worker: closed-loop clients of a running server. Run as ``python -m ours.clients HOST:PORT``.

One client for each place in a batch: it sends its source of the first batch in one call, waits for the answer, and goes
on with the next. They do not wait for one another.
"""

import asyncio
import sys
import time
from importlib.metadata import version

from seqserve_client import AsyncClient
from worker import Sources, Turn, serve
from workload import THREADS, Job


async def turn(job: Job, batches: list[Sources]) -> Turn:
    """Every client makes a call for each batch; the clock runs from the first call to the last answer."""
    async with AsyncClient(job.subject, max_attempts=1) as client:

        async def loop(sources: list[list[int]]) -> Sources:
            outputs: Sources = []
            for source in sources:
                results = await client.generate(
                    token_ids=[source], min_new_tokens=job.task.least, max_new_tokens=job.task.most,
                    beam_size=job.beam_size,
                )
                outputs.append(results[0].hypotheses[0].token_ids)
            return outputs

        if not await client.health():  # connects, too: no part of what is measured
            raise RuntimeError(f"{job.subject} is not serving")
        begun = time.perf_counter()
        columns = await asyncio.gather(*(loop(list(sources)) for sources in zip(*batches, strict=True)))
        seconds = time.perf_counter() - begun
        return Turn(seconds, [output for batch in zip(*columns, strict=True) for output in batch])


def main() -> int:
    """Answer commands. Connections last one turn, because the server is stopped between turns."""
    job = Job.read()
    versions = {"seqserve": version("seqserve"), "grpcio": version("grpcio")}
    settings = f"one client per row, one source per call; server with {THREADS} threads"
    return serve("Seqserve over gRPC", versions, settings, lambda batches: asyncio.run(turn(job, batches)))


if __name__ == "__main__":
    sys.exit(main())
