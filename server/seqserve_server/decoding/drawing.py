"""Which tokens may be drawn, with which weights, and which is. The order is that of transformers: temperature, the best
``top_k``, and of those the best that together reach ``top_p``.
"""

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import Sampling

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
_HEAD = 64  # tokens among which top_p is tried first, for it rarely needs more, and sorting all costs milliseconds


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1), of 53 random bits that depend on the two alone: no order of steps or requests matters.

    It is a hash, and not a generator of numpy, whose streams are promised for no version but the installed one.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, step), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def best(values: Numbers, count: int) -> Places:
    """Places of the ``count`` largest values, largest first, ties to the lower place."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    least = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= least)
    return found[np.argsort(-values[found], kind="stable")][:count]


def kept(logits: Numbers, sampling: Sampling) -> tuple[Places, Numbers]:
    """Places of the tokens that may be drawn and their weights, in an order that depends on nothing but the logits.

    Args:
        logits: Or log-probabilities, for a constant changes nothing. At least one is over minus infinity.
    """
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    if sampling.top_k:
        places = best(logits, sampling.top_k)
        return _nucleus(places, weights[places], float(weights[places].sum()), sampling.top_p)
    if sampling.top_p == 1:
        return np.arange(len(logits)), weights
    whole, count = float(weights.sum()), _HEAD
    while True:
        places = best(logits, count)
        if count >= len(logits) or weights[places].sum() >= sampling.top_p * whole:
            return _nucleus(places, weights[places], whole, sampling.top_p)
        count *= 8


def _nucleus(places: Places, weights: Numbers, whole: float, top_p: float) -> tuple[Places, Numbers]:
    """Of tokens that are best first, those before which less than ``top_p`` of the whole has come."""
    if top_p == 1:
        return places, weights
    before = np.concatenate(([0.0], np.cumsum(weights)[:-1]))
    count = int(np.count_nonzero(before < top_p * whole))
    return places[:count], weights[:count]


def drawn(logits: Numbers, sampling: Sampling, step: int) -> int:
    """The place of the token that is drawn at a step, by inversion of the distribution.

    Raises:
        ValueError: the sampling has no seed.
    """
    if sampling.seed is None:
        raise ValueError("a seed is chosen before anything is drawn")
    places, weights = kept(logits, sampling)
    sums = np.cumsum(weights)
    # A number below 1 times the last sum is below it in floating point too, so there always is such a place, and since
    # sums rise there the weight is not 0.
    return int(places[np.searchsorted(sums, uniform(sampling.seed, step) * sums[-1], side="right")])
