"""Worker: a bundle decoded in this process, without gRPC. Run as ``python -m ours.inprocess BUNDLE``."""

import sys
from importlib.metadata import version
from pathlib import Path

from seqserve_server.local import LocalModel
from worker import Sources, closed_batches, serve
from workload import NEW_TOKENS, THREADS, complete


def main() -> int:
    """Open the bundle and answer commands."""
    with LocalModel.open(Path(sys.argv[1]), threads=THREADS) as model:

        def translate(sources: Sources) -> Sources:
            results = model.generate(
                [complete(source) for source in sources], min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
            )
            return [result.token_ids for result in results]

        versions = {"seqserve": version("seqserve"), "onnxruntime": version("onnxruntime")}
        return serve("Seqserve in-process", versions, f"{THREADS} threads", closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
