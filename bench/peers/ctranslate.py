"""Worker: CTranslate2. In the peers' environment: ``python -m peers.ctranslate MODEL``."""

import json
import sys
from pathlib import Path

import ctranslate2

from worker import Sources, closed_batches, serve
from workload import THREADS, Job


def main() -> int:
    """Load the model and answer commands."""
    job = Job.read()
    translator = ctranslate2.Translator(
        job.subject, device="cpu", compute_type=job.precision, inter_threads=1, intra_threads=THREADS
    )
    names: list[str] = json.loads((Path(job.subject) / "shared_vocabulary.json").read_text(encoding="utf-8"))
    ids = {name: number for number, name in enumerate(names)}
    # Converted Marian models leave the end token to the caller.
    adds_end = json.loads((Path(job.subject) / "config.json").read_text(encoding="utf-8"))["add_source_eos"]

    def translate(sources: Sources) -> Sources:
        given = sources if adds_end else [job.task.complete(source) for source in sources]
        results = translator.translate_batch(
            [[names[number] for number in source] for source in given], beam_size=job.beam_size,
            min_decoding_length=job.task.least, max_decoding_length=job.task.most,
        )
        return [[ids[name] for name in result.hypotheses[0]] for result in results]

    settings = f"batch as given, inter_threads 1, intra_threads {THREADS}, compute type {translator.compute_type}"
    versions = {"ctranslate2": ctranslate2.__version__}
    return serve(f"CTranslate2 {job.precision}", versions, settings, closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
