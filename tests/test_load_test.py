"""The load test: the schedule and the figures are pure; the runs go against a server with known delays."""

import asyncio
import itertools
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import FakeServer, refuse, sleep
from seqserve_client import AsyncClient, ModelInfo, ModelLimits, Unavailable
from seqserve_client.load_test import Load, LoadTest, Source, arrival_offsets, random_sources, text_sources
from seqserve_client.report import PERCENTILES, Sample, is_good, percentile, result, summary, table


def run(server: FakeServer, load: Load, sources: Iterator[Source] | None = None) -> list[Sample]:
    async def measure() -> list[Sample]:
        async with AsyncClient(server.target, timeout=20, max_attempts=1) as client:
            return await LoadTest(client, load, sources or itertools.repeat("two dogs"), {}).run()

    return asyncio.run(measure())


def test_the_schedule_depends_on_the_seed_alone() -> None:
    first = list(arrival_offsets(7, 10.0, 50))
    assert first == list(arrival_offsets(7, 10.0, 50))
    assert first[:20] == list(arrival_offsets(7, 10.0, 20))
    assert first != list(arrival_offsets(8, 10.0, 50))
    assert list(arrival_offsets(7, 20.0, 50)) == pytest.approx([offset / 2 for offset in first])
    assert first == sorted(first)


def test_arrivals_have_the_mean_rate_and_the_spread_of_a_poisson_process() -> None:
    offsets = list(arrival_offsets(1, 50.0, 20_000))
    gaps = [after - before for before, after in itertools.pairwise([0.0, *offsets])]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation / mean == pytest.approx(1, rel=0.03)


def test_a_duration_ends_the_schedule_and_an_infinite_rate_sends_all_at_once() -> None:
    offsets = list(arrival_offsets(3, 100.0, None, duration=2.0))
    assert offsets
    assert max(offsets) < 2.0
    assert list(arrival_offsets(3, math.inf, 3)) == [0.0, 0.0, 0.0]


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


def test_the_table_shows_errors_and_only_what_was_measured() -> None:
    figures = result([Sample(0, 0, 1), Sample(0, 0, 1, error="INTERNAL")], {})
    text = table(figures)
    assert "1 completed, 1 failed" in text
    assert "1 x INTERNAL" in text
    assert "end-to-end latency" in text
    assert "first token" not in text
    assert "goodput" not in text
    assert "goodput" in table(result([STREAMED], {"ttft": 1.0}))
    assert "0 completed" in table(result([], {}))


def test_inputs_are_seeded() -> None:
    model = ModelInfo("m", "1", "fake", "fp32", False, ModelLimits(512, 256, 8, 2048, 100, 100, 32), {})
    first = list(itertools.islice(random_sources(1, 20, model), 200))
    assert first == list(itertools.islice(random_sources(1, 20, model), 200))
    assert {len(source) for source in first} == {20}
    ids = {token_id for source in first for token_id in source}
    assert (min(ids), max(ids)) == (4, 98)
    tiny = ModelInfo("m", "1", "fake", "fp32", False, ModelLimits(512, 256, 8, 2048, 3, 100, 32), {})
    assert set(next(random_sources(1, 50, tiny))) == {0, 1, 2}
    texts = list(itertools.islice(text_sources(5, ["a", "b", "c"]), 6))
    assert (sorted(texts[:3]), sorted(texts[3:])) == (["a", "b", "c"], ["a", "b", "c"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"requests": 5},
        {"rate": 5.0},
        {"rate": 0.0, "requests": 5},
        {"rate": math.inf, "duration": 1.0},
    ],
)
def test_a_load_that_never_starts_or_never_ends_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"load|rate"):
        Load(**arguments)


def test_an_open_loop_sends_every_request_and_keeps_the_intended_times(server: FakeServer) -> None:
    samples = run(server, Load(rate=500.0, requests=40, warmup=3, seed=4))
    assert sorted(sample.intended for sample in samples) == list(arrival_offsets(4, 500.0, 40))
    assert len(server.servicer.calls) == 43
    assert all(sample.sent >= sample.intended and sample.ended >= sample.sent for sample in samples)
    assert {(sample.input_tokens, sample.output_tokens, sample.error) for sample in samples} == {(3, 3, None)}


def test_waiting_behind_a_slow_server_is_seen_from_the_intended_time_only(server: FakeServer) -> None:
    # Twenty requests are due at once, one is in flight at a time, each takes 20 ms: the last ends after 400 ms. From
    # its own send each took about 20 ms, which is what a load generator that waits for the server reports.
    server.servicer.before = sleep(0.02)
    figures = result(run(server, Load(rate=math.inf, concurrency=1, requests=20)), {})
    assert figures["p99_e2el_ms"] >= 20 * 20
    assert figures["p50_e2el_ms"] >= 10 * 20
    assert figures["p99_send_delay_ms"] >= 19 * 20
    assert figures["p50_e2el_from_send_ms"] < figures["p50_e2el_ms"] / 2


def test_a_closed_loop_keeps_its_number_in_flight(server: FakeServer) -> None:
    three_are_here = threading.Barrier(3, timeout=10)
    in_flight: list[int] = []

    def before(request: Any, context: grpc.ServicerContext) -> None:
        three_are_here.wait()
        in_flight.append(len(server.servicer.calls))
        three_are_here.wait()  # nobody is answered before all three have looked

    server.servicer.before = before
    samples = run(server, Load(concurrency=3, requests=12))
    assert [sample.error for sample in samples] == [None] * 12
    assert in_flight == [3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12]


def test_a_closed_loop_ends_with_its_duration(server: FakeServer) -> None:
    server.servicer.before = sleep(0.01)
    samples = run(server, Load(concurrency=2, duration=0.1))
    assert samples
    assert all(sample.intended < 0.1 for sample in samples)


def test_a_stream_notes_each_message_with_tokens(server: FakeServer) -> None:
    server.servicer.between_chunks = lambda: threading.Event().wait(0.02)
    (sample,) = run(server, Load(concurrency=1, requests=1, stream=True), iter(["one two three"]))
    assert (len(sample.token_times), sample.output_tokens) == (3, 4)
    assert sample.intended <= sample.sent <= sample.token_times[0]
    assert sample.token_times == sorted(sample.token_times)
    assert sample.ended - sample.sent >= 3 * 0.02
    assert len(sample.milliseconds()["itl"]) == 2


def test_failures_are_counted_by_code_and_not_retried(server: FakeServer) -> None:
    count = itertools.count()

    def before(request: Any, context: grpc.ServicerContext) -> None:
        if next(count) % 2:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL")

    server.servicer.before = before
    figures = result(run(server, Load(concurrency=1, requests=10), itertools.repeat([5, 6])), {})
    assert (figures["completed"], figures["errors"]) == (5, {"RESOURCE_EXHAUSTED": 5})
    assert len(server.servicer.calls) == 10


def test_a_failing_warm_up_ends_the_test() -> None:
    async def measure() -> None:
        async with AsyncClient("127.0.0.1:1", timeout=20, max_attempts=1) as client:
            await LoadTest(client, Load(concurrency=1, requests=1, warmup=1), itertools.repeat("a"), {}).run()

    with pytest.raises(Unavailable):
        asyncio.run(measure())


def test_progress_is_told_after_each_end(server: FakeServer) -> None:
    told: list[tuple[int, int]] = []

    async def measure() -> None:
        async with AsyncClient(server.target, timeout=20) as client:
            load = Load(concurrency=1, requests=3)
            progress = lambda ended, failed: told.append((ended, failed))  # noqa: E731
            await LoadTest(client, load, itertools.repeat("a"), {}, progress=progress).run()

    asyncio.run(measure())
    assert told == [(1, 0), (2, 0), (3, 0)]
