"""Searches of every width in one batch, and whether company changes a bit of any answer."""

import random
from typing import Any

import numpy as np

from seqserve_server.decoding.search import SearchSettings, Stopping
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished

BEAMS = (1, 2, 3, 4, 5, 8, 12)
LIMIT = 10


def sources(local: LocalModel, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Of any length; the first are of one token."""
    rng, size = random.Random(seed), local.description.source_vocab_size
    lengths = [1, 1, *(rng.choice((2, 3, 7, 16, 17, 40)) for _ in range(count - 2))]
    return [(*(rng.randrange(3, size) for _ in range(length - 1)), 1) for length in lengths]


def search(beams: int, **changes: float) -> SearchSettings:
    return SearchSettings(1, LIMIT, beam_size=beams, num_hypotheses=beams, **changes)  # type: ignore[arg-type]


def mixed(count: int, seed: int = 0) -> list[SearchSettings]:
    """Beams of every size, in any order, with different lengths and ends."""
    rng = random.Random(seed)
    return [
        SearchSettings(
            1, rng.randint(1, LIMIT), beam_size=(beams := rng.choice(BEAMS)), num_hypotheses=rng.randint(1, beams),
            length_penalty=rng.choice((0.0, 0.6, 1.0)), stopping=rng.choice(list(Stopping)),
        )
        for _ in range(count)
    ]


def as_bits(result: Finished) -> list[tuple[list[int], list[int], float, bool]]:
    return [
        (each.token_ids, np.array(each.log_probs, np.float32).view(np.uint32).tolist(), each.score, each.ended)
        for each in result.hypotheses
    ]


def assert_same_in_any_company(local: LocalModel, count: int) -> None:
    """The same bits alone and in mixes, with staggered arrivals, rows that move and rows that are short."""
    given, searches = sources(local, count), mixed(count)
    alone = [as_bits(local.generate([one], searches=[how])[0]) for one, how in zip(given, searches, strict=True)]
    for seed in range(2):
        arrivals = [random.Random(seed * 100 + number).randrange(25) for number in range(count)]
        together = local.generate(given, searches=searches, arrivals=arrivals)
        assert [as_bits(result) for result in together] == alone
    assert len({str(each) for each in alone}) > count / 2
    buffers: Any = local._engine.buffers
    assert not any(array.any() for arrays in buffers._arrays.values() for array in arrays), "a slot was not zeroed"
