"""Worker: CTranslate2. In the peers' environment: ``python -m peers.ctranslate MODEL``."""

import sys

import ctranslate2

from worker import Sources, closed_batches, serve
from workload import NEW_TOKENS, THREADS, Job


def main() -> int:
    """Load the model and answer commands."""
    job = Job.read()
    translator = ctranslate2.Translator(
        job.subject, device="cpu", compute_type=job.precision, inter_threads=1, intra_threads=THREADS
    )

    def translate(sources: Sources) -> Sources:
        # Its vocabulary here is the ids as words; the end token is part of what a caller gives.
        results = translator.translate_batch(
            [[*map(str, source), "</s>"] for source in sources], beam_size=job.beam_size,
            min_decoding_length=NEW_TOKENS, max_decoding_length=NEW_TOKENS,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]

    settings = f"batch as given, inter_threads 1, intra_threads {THREADS}, compute type {translator.compute_type}"
    versions = {"ctranslate2": ctranslate2.__version__}
    return serve(f"CTranslate2 {job.precision}", versions, settings, closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
