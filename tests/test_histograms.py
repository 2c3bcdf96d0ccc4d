"""The demo's reading of a metrics page, against numbers that can be checked by hand."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Instrument

from histograms import Histogram, parse_metrics


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    histogram = Histogram(((1.0, 10.0), (2.0, 30.0), (math.inf, 40.0)), total=60.0)
    assert histogram.count == 40
    assert histogram.mean == 1.5
    assert histogram.quantile(0.25) == pytest.approx(1.0)
    assert histogram.quantile(0.5) == pytest.approx(1.5)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert Histogram(((1.0, 10.0), (2.0, 30.0), (math.inf, 40.0)), total=60.0).quantile(0.99) == 2.0


def test_empty_buckets_before_the_rank_are_passed_over() -> None:
    assert Histogram(((1.0, 0.0), (2.0, 4.0), (math.inf, 4.0)), total=6.0).quantile(0.0) == 1.0


def test_a_histogram_without_observations_has_no_mean_and_no_quantiles() -> None:
    empty = Histogram(((1.0, 0.0), (math.inf, 0.0)), total=0.0)
    assert math.isnan(empty.mean)
    assert math.isnan(empty.quantile(0.5))


def test_a_page_is_summed_over_labels() -> None:
    registry = CollectorRegistry()
    seconds = Instrument("wait_seconds", "Waiting.", ["model"], buckets=(1.0, 2.0), registry=registry)
    tokens = Counter("tokens_total", "Tokens.", ["model"], registry=registry)
    for model, value in (("a", 0.5), ("b", 1.5), ("b", 9.0)):
        seconds.labels(model).observe(value)
        tokens.labels(model).inc(2)
    metrics = parse_metrics(generate_latest(registry).decode())
    assert metrics.histograms == {"wait_seconds": Histogram(((1.0, 1.0), (2.0, 2.0), (math.inf, 3.0)), total=11.0)}
    assert metrics.values["tokens_total"] == 6
