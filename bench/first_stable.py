"""How long a caller of streamed beam search waits for the first token that is final, in steps and milliseconds.

    .venv/bin/python bench/first_stable.py BUNDLE DATA [--beam-size 4] [--sentences 1000]

One sentence of test_2016_flickr at a time, in this process; greedy requests, whose first token is final, beside it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from multi30k import sentences, show_progress
from seqserve_server.admission import frame_of
from seqserve_server.engine import Candidates, StepInput
from seqserve_server.inputs import read_source
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished
from seqserve_server.search_options import Options, most_beams, resolve_search


class Steps:
    """Counts the decoder steps of a model."""

    def __init__(self, local: LocalModel) -> None:
        self.count = 0
        engine: Any = local.served.engine
        step = engine.step

        def counted(given: StepInput) -> Candidates:
            self.count += 1
            found: Candidates = step(given)
            return found

        engine.step = counted


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    print("| beams | first final token at step, median (p90) | milliseconds, median (p90) | tokens a message, mean |")
    print("|---|---|---|---|")
    with LocalModel.open(given.bundle, threads=given.threads) as local:
        model, tokenizer = local.description, local.served.tokenizer
        frame, taken = frame_of(None, None, model), Steps(local)
        texts = sentences(given.data, "en")[: given.sentences]
        sources = [read_source("text", text, model, frame, tokenizer, "input") for text in texts]
        for beams in (1, given.beam_size):
            search = resolve_search(Options(beam_size=beams), model, most_beams(local.served.limits.max_rows))
            steps, sizes, waits = list[int](), list[int](), list[float]()
            for place, source in enumerate(sources):
                begun, before = time.perf_counter(), taken.count
                for part in local.stream(source, frame.prompt, search=search):
                    if isinstance(part, Finished):
                        break
                    if len(waits) == place:
                        waits.append((time.perf_counter() - begun) * 1e3)
                        steps.append(taken.count - before)
                    sizes.append(len(part))
                show_progress(f"{beams} beams", place + 1, len(sources))
            print(f"| {beams} | {np.median(steps):.0f} ({np.percentile(steps, 90):.0f}) | {np.median(waits):.1f} "
                  f"({np.percentile(waits, 90):.1f}) | {np.mean(sizes):.2f} |")
    print(f"\n{len(sources)} sentences. Machine: {'; '.join(facts().values())}.")


if __name__ == "__main__":
    main()
