"""What is kept of sources: bounded, by their whole content, and without a trace in any answer."""

from pathlib import Path

import numpy as np
import pytest

from seqserve_server.decoding.search import SearchSettings
from seqserve_server.encoder_cache import EncoderCache
from seqserve_server.local import LocalModel
from seqserve_server.served_model import EngineLimits, ServedModel
from test_beam_service import CONTENTS, END, LIMIT

SOURCES = [[*content, END] for content in CONTENTS]


def encoded(length: int) -> dict[str, np.ndarray]:
    return {"cross": np.full((2, 3, length, 4), length, dtype=np.float32)}


def test_the_longest_unused_goes_first_and_nothing_over_the_bound_stays() -> None:
    one = encoded(5)["cross"].nbytes
    cache = EncoderCache(2 * one)
    cache.keep((1,), encoded(5))
    cache.keep((2,), encoded(5))
    assert cache.find((1,)) is not None
    cache.keep((3,), encoded(5))
    assert [cache.find(source) is not None for source in ((1,), (2,), (3,))] == [True, False, True]
    assert (cache.bytes_used, len(cache)) == (2 * one, 2)
    cache.keep((4,), encoded(11))
    assert (cache.bytes_used, len(cache)) == (2 * one, 2), "a result that alone is too large pushes nobody out"
    cache.keep((5,), encoded(10))
    assert (cache.bytes_used, len(cache)) == (2 * one, 1)
    assert (cache.hits, cache.misses) == (3, 1)


def test_what_is_kept_is_a_copy() -> None:
    cache, values = EncoderCache(1 << 20), encoded(5)
    cache.keep((1,), values)
    values["cross"][:] = 0
    found = cache.find((1,))
    assert found is not None
    assert (found["cross"] == 5).all()


class Colliding(tuple[int, ...]):
    """Ids whose hashes are all the same."""

    def __hash__(self) -> int:
        return 7


def test_sources_of_one_hash_are_not_taken_for_one_another() -> None:
    cache = EncoderCache(1 << 20)
    cache.keep(Colliding((1, 2)), encoded(5))
    cache.keep(Colliding((2, 1)), encoded(6))
    found = cache.find(Colliding((2, 1)))
    assert found is not None
    assert found["cross"].shape[2] == 6
    assert cache.find(Colliding((1,))) is None


@pytest.fixture
def opened(tiny_bundle: Path) -> LocalModel:
    return LocalModel(ServedModel.open(tiny_bundle, EngineLimits(threads=1, encoder_cache_bytes=1 << 20)))


def test_answers_and_scores_of_kept_sources_have_the_bits_of_fresh_ones(tiny_bundle: Path, opened: LocalModel) -> None:
    searches = [SearchSettings(END, LIMIT, beam_size=1 + place % 3) for place in range(len(SOURCES))]
    with LocalModel.open(tiny_bundle, threads=1) as fresh:
        expected = [fresh.generate([one], searches=[search])[0] for one, search in zip(SOURCES, searches, strict=True)]
        targets = [[*answer.token_ids, END] for answer in expected]
        scores = [fresh.score([one], [target])[0] for one, target in zip(SOURCES, targets, strict=True)]
    for turn in range(3):
        again = opened.generate(SOURCES, searches=searches)
        assert [one.hypotheses for one in again] == [one.hypotheses for one in expected]
        pairs = opened.score(SOURCES, targets)
        for one, other in zip(pairs, scores, strict=True):
            assert one.log_probs.tobytes() == other.log_probs.tobytes()
            assert one.alignment.tobytes() == other.alignment.tobytes()
        reuse = opened.served.engine.reuse
        assert (reuse.misses, reuse.hits) == (len(SOURCES), (2 * turn + 1) * len(SOURCES))


def test_the_same_source_twice_in_a_batch_is_encoded_once(opened: LocalModel) -> None:
    one, other = opened.generate([SOURCES[3], SOURCES[3]], max_new_tokens=LIMIT)
    assert one.hypotheses == other.hypotheses
    assert opened.served.engine.reuse.misses == 1


def test_without_room_nothing_is_kept(tiny_bundle: Path) -> None:
    with LocalModel.open(tiny_bundle, threads=1) as local:
        for _ in range(2):
            local.generate(SOURCES, max_new_tokens=2)
        assert (local.served.engine.reuse.hits, local.served.engine.reuse.bytes_used) == (0, 0)
