"""Loads that make sense, and requests that depend on seed and number alone."""

import itertools
import math
import pickle
from typing import Any

import pytest

from seqserve_client import ModelInfo, ModelLimits
from seqserve_client.arrivals import Share
from seqserve_client.load import Load, Work
from seqserve_client.load_inputs import RandomInputs, TextInputs
from seqserve_client.load_mix import STREAM, UNARY, kind_at, parse_mix
from seqserve_client.load_trace import TraceEntry


def model(size: int) -> ModelInfo:
    return ModelInfo("m", "1", "fake", "fp32", False, ModelLimits(512, 256, 8, 2048, size, 100, 32), {})


def test_random_ids_leave_out_special_ones_where_they_can() -> None:
    inputs = RandomInputs.for_model(1, 20, model(100))
    sources = [inputs.at(number) for number in range(200)]
    assert sources == [RandomInputs.for_model(1, 20, model(100)).at(number) for number in range(200)]
    assert sources != [RandomInputs.for_model(2, 20, model(100)).at(number) for number in range(200)]
    assert {len(source) for source in sources} == {20}
    ids = {token_id for source in sources for token_id in source}
    assert (min(ids), max(ids)) == (4, 98)
    assert set(RandomInputs.for_model(1, 50, model(3)).at(0)) == {0, 1, 2}


def test_each_round_has_every_text_once_in_another_order() -> None:
    texts = [str(number) for number in range(20)]
    inputs = TextInputs(5, texts)
    rounds = [[inputs.at(number) for number in range(start, start + 20)] for start in (-20, 0, 20, 40)]
    assert all(sorted(each) == sorted(texts) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 4
    assert [TextInputs(6, texts).at(number) for number in range(20)] != rounds[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"requests": 5},
        {"rate": 5.0},
        {"rate": 0.0, "requests": 5},
        {"rate": math.inf, "duration": 1.0},
        {"rate": math.inf, "requests": 5, "ramp": 1.0},
        {"rate": 5.0, "requests": 5, "burstiness": 0.0},
        {"rate": 5.0, "trace": (TraceEntry(0.0),)},
        {"ramp": 5.0, "trace": (TraceEntry(0.0),)},
    ],
)
def test_a_load_that_never_starts_or_never_ends_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"load|rate|burstiness"):
        Load(**arguments)


def test_a_load_knows_whether_it_is_open_and_streams() -> None:
    assert Load(rate=1.0, requests=1).is_open
    assert Load(trace=(TraceEntry(0.0),)).is_open
    closed = Load(concurrency=1, requests=1, kinds=(UNARY, STREAM))
    assert not closed.is_open
    assert closed.streams
    with pytest.raises(ValueError, match="no schedule"):
        closed.arrivals()


def test_workers_begin_one_after_the_other_along_the_ramp() -> None:
    load = Load(concurrency=5, requests=1, ramp=10.0)
    assert load.worker_begins(Share()) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert [load.worker_begins(Share(index, 2)) for index in range(2)] == [[0.0, 4.0, 8.0], [2.0, 6.0]]


def test_requests_are_the_same_whoever_makes_them() -> None:
    load = Load(rate=1.0, requests=9, seed=3, kinds=parse_mix("unary=1,stream=1,beam4=1"))
    work = Work(RandomInputs(3, 5, 0, 50), {"beam_size": 2, "max_new_tokens": 7})
    requests = [work.request(load, number) for number in range(9)]
    assert [request.kind for request in requests] == [kind_at(3, load.kinds, number) for number in range(9)]
    assert len({request.kind.name for request in requests}) == 3
    other_load, other_work = pickle.loads(pickle.dumps((load, work)))
    assert requests == [other_work.request(other_load, number) for number in reversed(range(9))][::-1]
    for request in requests:
        assert request.options == {"beam_size": 4 if request.kind.name == "beam4" else 2, "max_new_tokens": 7}


def test_the_warm_up_takes_each_kind_and_no_input_that_is_measured() -> None:
    load = Load(rate=1.0, requests=50, warmup=2, kinds=parse_mix("unary=1,stream=1,beam4=1"))
    work = Work(RandomInputs(3, 5, 0, 50))
    assert load.warm_ups == 6
    shares = [[work.warm_up(load, Share(index, 2), number) for number in range(6)] for index in range(2)]
    assert [request.kind.name for request in shares[0]] == ["unary", "stream", "beam4"] * 2
    sources = [request.source for share in shares for request in share]
    measured = [work.request(load, number).source for number in range(50)]
    assert not any(source in measured for source in sources)
    assert not any(one == other for one, other in itertools.combinations(sources, 2))


def test_the_warm_up_of_a_trace_takes_its_last_inputs() -> None:
    load = Load(warmup=3, trace=(TraceEntry(0.0, "a"), TraceEntry(1.0, "b", 4), TraceEntry(2.0)))
    work = Work(TextInputs(0, ["from elsewhere"]))
    found = [work.warm_up(load, Share(), number) for number in range(3)]
    assert [request.source for request in found] == ["from elsewhere", "b", "a"]
    assert found[1].options == {"max_new_tokens": 4}
