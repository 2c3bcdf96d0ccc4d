"""Tokens that may be drawn and their probabilities, compared with transformers' warpers on random logits.

    PYTHONPATH=server:proto:bench .venv-peers/bin/python -m peers.sampling_parity [--rows 200]
"""

import argparse
import sys

import numpy as np
import torch
import transformers
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from seqserve_server.decoding.drawing import kept
from seqserve_server.decoding.search import Sampling

SAMPLINGS = [
    Sampling(temperature, top_k, top_p)
    for temperature in (0.3, 1.0, 2.5) for top_k in (0, 1, 5, 50, 400) for top_p in (0.05, 0.5, 0.9, 0.999, 1.0)
]
TOLERANCE = 1e-6


def ours(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probability of every token; 0 where it may not be drawn."""
    places, weights = kept(logits.astype(np.float64), sampling)
    found = np.zeros(len(logits))
    found[places] = weights / weights.sum()
    return found


def theirs(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The same by ``generate``'s warpers, in its order; in float32 the edge of top_p would be a matter of rounding."""
    scores = torch.tensor(logits[None].astype(np.float64))
    ids = torch.zeros(1, 0, dtype=torch.int64)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    return np.asarray(torch.softmax(scores, -1)[0].numpy())


def main() -> int:
    """Print what differs; 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    random, different, largest = np.random.default_rng(0), 0, 0.0
    rows = parser.parse_args().rows
    for number in range(rows):
        logits = random.normal(0, random.uniform(0.5, 4), 2000 if number % 4 else 60000).astype(np.float32)
        for sampling in SAMPLINGS:
            one, other = ours(logits, sampling), theirs(logits, sampling)
            different += bool(((one > 0) != (other > 0)).any())
            largest = max(largest, float(np.abs(one - other).max()))
    print(f"transformers {transformers.__version__}: {rows} rows, {len(SAMPLINGS)} ways to draw; other tokens kept in "
          f"{different}, largest error of a probability {largest:.1e}")
    return int(different > 0 or largest > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
