"""Worker: CTranslate2, float32. In the peers' environment: ``python -m peers.ctranslate MODEL``."""

import sys

import ctranslate2

from worker import Sources, closed_batches, serve
from workload import NEW_TOKENS, THREADS


def main() -> int:
    """Load the model and answer commands."""
    translator = ctranslate2.Translator(
        sys.argv[1], device="cpu", compute_type="float32", inter_threads=1, intra_threads=THREADS
    )

    def translate(sources: Sources) -> Sources:
        # Its vocabulary here is the ids as words; the end token is part of what a caller gives.
        results = translator.translate_batch(
            [[*map(str, source), "</s>"] for source in sources], beam_size=1,
            min_decoding_length=NEW_TOKENS, max_decoding_length=NEW_TOKENS,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]

    settings = f"batch as given, inter_threads 1, intra_threads {THREADS}, compute type {translator.compute_type}"
    return serve("CTranslate2 float32", {"ctranslate2": ctranslate2.__version__}, settings, closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
