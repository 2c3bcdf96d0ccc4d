"""How near the scorer is to the steps of the same bundle, on reference translations, and what its session holds.

    python bench/scorer.py var/demo-bundle --folder shared/data/multi30k

Every pair is scored alone and in mixes, where every bit has to be the same, and held against log-probabilities of
incremental steps that are fed the same tokens.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multi30k import sentences, show_progress
from seqserve_server.admission import frame_of
from seqserve_server.engine import Scored
from seqserve_server.local import LocalModel

MIXES = (2, 3, 7, 16, 50, 200)
Ids = list[int]


def own_megabytes() -> int:
    """What this process alone holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon"))


def memory(bundle: Path) -> str:
    """Of the session, opened and before anything is scored."""
    before = own_megabytes()
    without = LocalModel.open(bundle, threads=1, scorer=False)
    between = own_megabytes()
    with_scorer = LocalModel.open(bundle, threads=1)
    after = own_megabytes()
    if not with_scorer.can_score or without.can_score:
        sys.exit(f"{bundle}: has no scorer")
    return f"own memory of an opened bundle {between - before} MB, with the scorer {after - between} MB"


def stepped(model: LocalModel, source: Ids, target: Ids) -> NDArray[np.float64]:
    """Log-probabilities [len(target)] by incremental steps."""
    logits = model.step_logits(source, target).astype(np.float64)
    largest = logits.max(axis=-1)
    chosen = logits[np.arange(len(target)), target]
    return np.asarray(chosen - largest - np.log(np.exp(logits - largest[:, None]).sum(axis=-1)))


def bits(scored: Scored) -> tuple[bytes, bytes]:
    """Everything that is said of a pair."""
    return scored.log_probs.tobytes(), scored.alignment.tobytes()


def differing(model: LocalModel, sources: Sequence[Ids], targets: Sequence[Ids], alone: Sequence[Scored]) -> int:
    """Scorings in mixes that are not the bits of alone."""
    order, found = list(range(len(sources))), 0
    for size in MIXES:
        random.Random(size).shuffle(order)
        for first in range(0, len(order), size):
            part = order[first : first + size]
            mixed = model.score([sources[place] for place in part], [targets[place] for place in part])
            found += sum(bits(one) != bits(alone[place]) for one, place in zip(mixed, part, strict=True))
    return found


def main() -> None:
    """Print two lines; the second needs a tokenizer. One bundle: the next would fill memory that this one left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("shared/data/multi30k"), help="of Multi30k (%(default)s)")
    parser.add_argument("--count", type=int, default=200, help="pairs (%(default)s)")
    given = parser.parse_args()
    print(memory(given.bundle))
    model = LocalModel.open(given.bundle, threads=1)
    description, tokenizer = model.description, model.served.tokenizer
    if tokenizer is None:
        return
    texts, references = (sentences(given.folder, language)[: given.count] for language in ("en", "de"))
    frame = frame_of(None, None, description)
    sources = [list(frame.complete(tuple(tokenizer.encode(text)))) for text in texts]
    targets = [[*tokenizer.encode_target(text), description.eos_id] for text in references]
    alone: list[Scored] = []
    errors = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone += model.score([source], [target])
        errors.append(np.abs(stepped(model, source, target) - alone[-1].log_probs))
        show_progress("scoring", number + 1, len(sources))
    every = np.concatenate(errors)
    print(f"{len(every)} tokens: log-probabilities differ by {every.max():.1e} at most, {every.mean():.1e} in the mean")
    other = differing(model, sources, targets, alone)
    print(f"{other} of {len(MIXES) * len(sources)} scorings in mixes have other bits")


if __name__ == "__main__":
    main()
