"""Worker: a bundle decoded in this process, without gRPC. Run as ``python -m ours.inprocess BUNDLE``."""

import sys
from importlib.metadata import version
from pathlib import Path

from seqserve_server.local import LocalModel
from seqserve_server.search_options import Options, resolve_search
from worker import Sources, closed_batches, serve
from workload import THREADS, Job


def main() -> int:
    """Open the bundle and answer commands."""
    job = Job.read()
    with LocalModel.open(Path(job.subject), threads=THREADS) as model:
        asked = Options(min_new_tokens=job.task.least, max_new_tokens=job.task.most, beam_size=job.beam_size)
        search = resolve_search(asked, model.description, job.beam_size)

        def translate(sources: Sources) -> Sources:
            results = model.generate(
                [job.task.complete(source) for source in sources], searches=[search] * len(sources)
            )
            return [result.token_ids for result in results]

        versions = {"seqserve": version("seqserve"), "onnxruntime": version("onnxruntime")}
        return serve("Seqserve in-process", versions, f"{THREADS} threads", closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
