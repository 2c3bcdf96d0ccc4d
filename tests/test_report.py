"""Figures of a load test, from samples made by hand."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client.report import (
    PERCENTILES,
    Part,
    Sample,
    clients,
    generator_warnings,
    is_good,
    kinds,
    merged,
    percentile,
    result,
    summary,
)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_sample_that_enough_do_not_exceed(samples: list[float], percent: float) -> None:
    ordered = sorted(samples)
    value = percentile(ordered, percent)
    needed = percent / 100 * len(ordered)
    assert sum(sample <= value for sample in ordered) >= needed * (1 - 1e-12)
    assert sum(sample < value for sample in ordered) < needed or value == ordered[0]


def test_percentiles_of_a_hundred_are_their_own_ranks() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, percent) for percent in (*PERCENTILES, 100)] == [50, 90, 95, 99, 100]
    assert percentile([5.0], 99) == 5.0
    for wrong in (0, 101):
        with pytest.raises(ValueError, match="percentile"):
            percentile(ordered, wrong)
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_a_metric_without_samples_is_none() -> None:
    assert set(summary("ttft", []).values()) == {None}
    assert summary("e2el", [1.0, 3.0])["mean_e2el_ms"] == 2.0


STREAMED = Sample(intended=1.0, sent=1.5, ended=3.0, token_times=[2.0, 2.25, 2.75], input_tokens=4, output_tokens=5)


def test_a_sample_counts_from_the_intended_time_and_tells_the_send_apart() -> None:
    assert STREAMED.milliseconds() == {
        "e2el": [2000.0],
        "e2el_from_send": [1500.0],
        "send_delay": [500.0],
        "ttft": [1000.0],
        "itl": [250.0, 500.0],
        "tpot": [250.0],
    }
    assert set(Sample(intended=0, sent=0, ended=1, output_tokens=3).milliseconds()) == {
        "e2el",
        "e2el_from_send",
        "send_delay",
    }


def test_the_result_has_the_keys_that_plotting_tools_know() -> None:
    failed = Sample(intended=0.0, sent=0.0, ended=0.5, error="RESOURCE_EXHAUSTED")
    figures = result([STREAMED, failed], {"e2el": 1999.0})
    assert (figures["completed"], figures["failed"], figures["errors"]) == (1, 1, {"RESOURCE_EXHAUSTED": 1})
    assert figures["duration"] == 3.0
    assert figures["request_throughput"] == pytest.approx(1 / 3)
    assert figures["output_throughput"] == pytest.approx(5 / 3)
    assert (figures["total_input_tokens"], figures["total_output_tokens"]) == (4, 5)
    assert figures["request_goodput"] == 0
    assert result([STREAMED, failed], {"e2el": 2000.0, "ttft": 1000.0})["request_goodput"] == pytest.approx(1 / 3)
    for metric in ("ttft", "tpot", "itl", "e2el"):
        for figure in ("mean", "median", "std", "p50", "p90", "p95", "p99"):
            assert figures[f"{figure}_{metric}_ms"] is not None
    assert json.loads(json.dumps(figures)) == figures


def test_goodput_counts_what_is_within_every_limit() -> None:
    assert is_good(STREAMED, {})
    assert is_good(STREAMED, {"tpot": 250.0})
    assert not is_good(STREAMED, {"e2el": 5000.0, "ttft": 999.0})
    assert not is_good(Sample(0, 0, 1, error="INTERNAL"), {})


def test_each_kind_has_figures_of_its_own_over_the_whole_time() -> None:
    samples = [
        Sample(0.0, 0.0, 1.0, kind="unary", output_tokens=4),
        Sample(1.0, 1.0, 4.0, kind="beam4", output_tokens=2),
        Sample(1.0, 1.0, 2.0, kind="unary", error="INTERNAL"),
    ]
    found = kinds(samples, {"e2el": 2000.0})
    assert list(found) == ["beam4", "unary"]
    assert (found["unary"]["completed"], found["unary"]["failed"], found["unary"]["p99_e2el_ms"]) == (1, 1, 1000.0)
    assert (found["beam4"]["completed"], found["beam4"]["p99_e2el_ms"]) == (1, 3000.0)
    whole = result(samples, {"e2el": 2000.0})
    for figure in ("request_throughput", "output_throughput", "request_goodput"):
        assert sum(each[figure] for each in found.values()) == pytest.approx(whole[figure])


TIMES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=40)


@given(st.lists(TIMES, min_size=1, max_size=5))
def test_merged_samples_give_the_figures_of_a_single_process(shares: list[list[tuple[float, float]]]) -> None:
    parts = [
        Part([Sample(intended, intended, intended + took) for intended, took in share], 1.0, 2.0) for share in shares
    ]
    together = [sample for part in parts for sample in part.samples]
    whole = merged(parts)
    assert [sample.intended for sample in whole] == sorted(sample.intended for sample in together)
    found, expected = result(whole, {"e2el": 50_000.0}), result(together, {"e2el": 50_000.0})
    assert found == expected


def late(seconds: float, processor: float) -> list[dict[str, float]]:
    samples = [Sample(1.0, 1.0, 2.0, ready=1.0 + seconds)] * 50
    return clients([Part([], 0.0, 0.0), Part(samples, processor, 10.0)])


def test_a_generator_that_kept_up_is_not_spoken_of() -> None:
    assert late(0.002, 1.0) == [
        {"requests": 0, "processor_ratio": 0.0, "p99_lag_ms": 0.0},
        {"requests": 50, "processor_ratio": 0.1, "p99_lag_ms": pytest.approx(2.0)},
    ]
    assert generator_warnings(late(0.002, 1.0), 100.0) == []
    assert generator_warnings(late(0.02, 1.0), 1000.0) == []  # 2 % of the latency
    assert generator_warnings(clients([]), None) == []


@pytest.mark.parametrize(
    ("seconds", "processor", "latency", "words"),
    [
        (0.02, 1.0, 100.0, ["client 1 was 20 ms late at p99, at 10% of a core", "busy with something else"]),
        (0.02, 1.0, None, ["could not keep up"]),
        (0.0, 9.5, 100.0, ["client 1 was 0 ms late at p99, at 95% of a core", "take more --processes"]),
    ],
)
def test_a_late_or_busy_generator_is_told_with_its_figures(
    seconds: float, processor: float, latency: float | None, words: list[Any]
) -> None:
    (warning,) = generator_warnings(late(seconds, processor), latency)
    for word in ["the generator could not keep up", *words]:
        assert word in warning
    assert "client 0" not in warning
