"""The server's own histogram against prometheus_client's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from seqserve_server.histogram import Histogram


def test_a_value_on_a_bound_counts_into_that_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.snapshot() == ([("1", 2.0), ("2", 4.0), ("+Inf", 5.0)], 7.5)


def test_many_equal_observations_count_as_many() -> None:
    once, many = Histogram((1.0,)), Histogram((1.0,))
    many.observe(0.25, 8)
    for _ in range(8):
        once.observe(0.25)
    assert many.snapshot() == once.snapshot() == ([("1", 8.0), ("+Inf", 8.0)], 2.0)


@given(st.lists(st.floats(0, 10)))
def test_counts_and_sum_are_those_of_the_reference(values: list[float]) -> None:
    bounds = (0.00025, 0.001, 0.5, 1.0, 7.0)
    histogram, registry = Histogram(bounds), CollectorRegistry()
    reference = Reference("h", "h", buckets=bounds, registry=registry)
    for value in values:
        histogram.observe(value)
        reference.observe(value)
    buckets, total = histogram.snapshot()
    for bound, count in buckets:
        name = bound if bound == "+Inf" else str(float(bound))
        assert count == registry.get_sample_value("h_bucket", {"le": name})
    assert total == pytest.approx(registry.get_sample_value("h_sum"))
