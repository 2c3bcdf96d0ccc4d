"""The load test of one process, against a server with known delays."""

import asyncio
import itertools
import math
import threading
import time
from typing import Any

import grpc
import pytest

from fake_server import FakeServer, refuse, sleep
from seqserve_client import AsyncClient, Unavailable
from seqserve_client.arrivals import Share, arrival_offsets
from seqserve_client.load import Load, Work
from seqserve_client.load_inputs import RandomInputs, TextInputs
from seqserve_client.load_mix import STREAM, parse_mix
from seqserve_client.load_test import LoadTest
from seqserve_client.load_trace import TraceEntry
from seqserve_client.report import Sample, result

DOGS = Work(TextInputs(0, ["two dogs"]))


def run(server: FakeServer, load: Load, work: Work = DOGS, share: Share | None = None) -> list[Sample]:
    async def measure() -> list[Sample]:
        async with AsyncClient(server.target, timeout=20, max_attempts=1) as client:
            test = LoadTest(client, load, work, share)
            await test.warm_up()
            return await test.run()

    return asyncio.run(measure())


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
    work = Work(TextInputs(0, ["one two three"]))
    (sample,) = run(server, Load(concurrency=1, requests=1, kinds=(STREAM,)), work)
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
    figures = result(run(server, Load(concurrency=1, requests=10), Work(RandomInputs(0, 2, 5, 6))), {})
    assert (figures["completed"], figures["errors"]) == (5, {"RESOURCE_EXHAUSTED": 5})
    assert figures["error_examples"] == {"RESOURCE_EXHAUSTED": "full"}
    assert len(server.servicer.calls) == 10


def test_a_failing_warm_up_ends_the_test() -> None:
    async def measure() -> None:
        async with AsyncClient("127.0.0.1:1", timeout=20, max_attempts=1) as client:
            await LoadTest(client, Load(concurrency=1, requests=1, warmup=1), DOGS).warm_up()

    with pytest.raises(Unavailable):
        asyncio.run(measure())


def test_the_tally_counts_what_was_sent_and_ended(server: FakeServer) -> None:
    fails = itertools.cycle([False, False, True])

    def before(request: Any, context: grpc.ServicerContext) -> None:
        if next(fails):
            refuse(context, grpc.StatusCode.INTERNAL, "no", "BROKEN")

    server.servicer.before = before

    async def measure() -> LoadTest:
        async with AsyncClient(server.target, timeout=20, max_attempts=1) as client:
            test = LoadTest(client, Load(concurrency=1, requests=6), DOGS)
            await test.run()
            return test

    tally = asyncio.run(measure()).tally
    assert (tally.sent, tally.ended, tally.failed, tally.buckets.total()) == (6, 6, 2, 4)


def test_kinds_are_sent_as_they_say_and_are_all_warmed_up(server: FakeServer) -> None:
    load = Load(rate=math.inf, requests=60, warmup=1, kinds=parse_mix("unary=1,stream=1,beam4=1,stream+beam2=1"))
    samples = run(server, load)
    sent = [(hasattr(call, "input"), call.options.beam_size) for call in server.servicer.calls]
    assert sent[:4] == [(False, 0), (True, 0), (False, 4), (True, 2)]
    calls = {"unary": (False, 0), "stream": (True, 0), "beam4": (False, 4), "stream+beam2": (True, 2)}
    for name, call in calls.items():
        of_kind = [sample for sample in samples if sample.kind == name]
        assert len(of_kind) == sent[4:].count(call) > 0
        assert all(bool(sample.token_times) == call[0] for sample in of_kind)


def test_a_trace_sends_its_own_inputs_and_limits_at_its_own_times(server: FakeServer) -> None:
    trace = (TraceEntry(0.0, "one two three", 2), TraceEntry(0.02, [7, 8]), TraceEntry(0.04))
    samples = run(server, Load(trace=trace, concurrency=1))  # one at a time, so that calls are in order
    assert sorted(sample.intended for sample in samples) == [0.0, 0.02, 0.04]
    calls = server.servicer.calls
    assert [call.inputs[0].text for call in calls] == ["one two three", "", "two dogs"]
    assert (list(calls[1].inputs[0].token_ids.ids), calls[0].options.max_new_tokens) == ([7, 8], 2)
    assert not calls[1].options.HasField("max_new_tokens")
    assert len(run(server, Load(trace=trace, requests=2))) == 2
    assert len(run(server, Load(trace=trace, duration=0.02))) == 1


def test_shares_send_the_schedule_of_one_process_between_them(server: FakeServer) -> None:
    load = Load(rate=400.0, requests=31, seed=9, kinds=parse_mix("unary=2,beam2=1"))
    work = Work(RandomInputs(9, 6, 4, 99))

    def seen(shares: list[Share]) -> list[Any]:
        server.servicer.calls.clear()
        samples = [sample for share in shares for sample in run(server, load, work, share)]
        sent = sorted((tuple(call.inputs[0].token_ids.ids), call.options.beam_size) for call in server.servicer.calls)
        return [sorted((sample.intended, sample.kind) for sample in samples), sent]

    assert seen([Share(0, 3), Share(1, 3), Share(2, 3)]) == seen([Share()])


def test_workers_of_a_closed_loop_begin_along_its_ramp(server: FakeServer) -> None:
    server.servicer.before = sleep(0.005)
    load = Load(concurrency=4, requests=10, ramp=0.2)
    samples = run(server, load)
    assert sum(sample.intended >= 0.2 for sample in samples) == 10
    # Until the second worker begins, at 0.05, there is one request at a time.
    alone = sorted((sample.intended, sample.ended) for sample in samples if sample.ended < 0.05)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(alone))


def test_what_the_generator_is_late_by_is_told_apart_from_a_wait_for_the_cap(server: FakeServer) -> None:
    server.servicer.before = sleep(0.02)
    held = run(server, Load(rate=1000.0, concurrency=1, requests=10))
    assert max(sample.sent - sample.intended for sample in held) > 0.1
    assert all(sample.intended <= sample.ready <= sample.sent for sample in held)

    async def late() -> list[Sample]:
        async with AsyncClient(server.target, timeout=20, max_attempts=1) as client:
            # As if everything had been due half a second ago.
            return await LoadTest(client, Load(rate=1000.0, requests=3), DOGS).run(time.perf_counter() - 0.5)

    assert all(sample.lag_ms >= 400 for sample in asyncio.run(late()))


def test_processes_without_any_request_in_flight_are_refused() -> None:
    with pytest.raises(ValueError, match="3 processes cannot share a concurrency of 2"):
        LoadTest(AsyncClient(), Load(concurrency=2, requests=5), DOGS, Share(0, 3))


def test_a_load_test_that_is_interrupted_leaves_nothing_that_would_still_send(server: FakeServer) -> None:
    async def interrupted() -> list[str]:
        async with AsyncClient(server.target, timeout=20, max_attempts=1) as client:
            running = asyncio.create_task(LoadTest(client, Load(rate=2000.0, duration=60.0), DOGS).run())
            while len(server.servicer.calls) < 5:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return [str(task.get_coro()) for task in asyncio.all_tasks() if "_measure" in str(task.get_coro())]

    assert asyncio.run(interrupted()) == []
