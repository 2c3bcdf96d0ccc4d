"""Client processes against a server: together they send what one process would, and none outlives the test."""

import gc
import os
import signal
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from fake_server import FakeServer, refuse
from seqserve_client import InvalidInput, Unavailable
from seqserve_client.arrivals import arrival_offsets
from seqserve_client.load import Load, Work
from seqserve_client.load_inputs import RandomInputs, TextInputs
from seqserve_client.load_mix import parse_mix
from seqserve_client.load_processes import ClientDied, ClientProcesses, Clients, OwnProcess, Target
from seqserve_client.load_progress import Tally
from seqserve_client.report import clients, merged

WORK = Work(RandomInputs(2, 5, 4, 99))
LOAD = Load(rate=300.0, requests=41, seed=2, warmup=1, kinds=parse_mix("unary=2,stream=1,beam4=1"))
Maker = Callable[[Target, Work], Clients]
MAKERS: dict[str, Maker] = {"this": OwnProcess, "two": lambda target, work: ClientProcesses(target, work, 2)}


def target(server: FakeServer) -> Target:
    return Target(server.target, 20.0)


def sent(server: FakeServer) -> list[Any]:
    """What the server was asked, without the order."""
    inputs = [(call.inputs[0] if hasattr(call, "inputs") else call.input, call) for call in server.servicer.calls]
    return sorted((tuple(source.token_ids.ids), type(call).__name__, call.options.beam_size) for source, call in inputs)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_any_number_of_processes_sends_the_same_schedule(make: Maker, server: FakeServer) -> None:
    with make(target(server), WORK) as sending:
        sending.prepare(LOAD)
        warm_ups = len(server.servicer.calls)
        server.servicer.calls.clear()
        parts = sending.run(None)
    assert warm_ups == len(parts) * LOAD.warm_ups
    assert [sample.intended for sample in merged(parts)] == list(arrival_offsets(2, 300.0, 41))
    requests = [WORK.request(LOAD, number) for number in range(41)]
    assert sent(server) == sorted(
        (
            tuple(request.source),
            "GenerateStreamRequest" if request.kind.stream else "GenerateRequest",
            request.kind.beam_size or 0,
        )
        for request in requests
    )
    assert all(0 <= sample.intended <= sample.ready <= sample.sent <= sample.ended for sample in merged(parts))
    assert all(client["processor_ratio"] > 0 for client in clients(parts))


def test_processes_take_one_load_after_the_other_and_tell_of_each(server: FakeServer) -> None:
    told: list[Tally] = []
    with ClientProcesses(target(server), Work(TextInputs(0, ["two dogs"])), 2) as sending:
        for requests in (5, 8):
            sending.prepare(Load(concurrency=3, requests=requests))
            parts = sending.run(told.append)
            assert sum(len(part.samples) for part in parts) == requests
            assert sorted(len(part.samples) for part in parts) == [requests // 2, (requests + 1) // 2]
        assert told
        assert all(tally.ended <= tally.sent <= 8 for tally in told)
        processes = list(sending._processes)
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_what_the_warm_up_raises_arrives_as_it_was(make: Maker, server: FakeServer) -> None:
    work = Work(TextInputs(0, ["long story"]))
    with make(target(server), work) as sending, pytest.raises(InvalidInput, match="over the limit of 512") as caught:
        sending.prepare(Load(concurrency=2, requests=1, warmup=1))
    assert (caught.value.reason, caught.value.metadata) == ("INPUT_TOO_LONG", {"limit": "512"})
    nowhere = Target("127.0.0.1:1", 5.0)
    with make(nowhere, work) as sending, pytest.raises(Unavailable):
        sending.prepare(Load(concurrency=2, requests=1, warmup=1))


def test_failures_of_all_processes_are_counted_together(server: FakeServer) -> None:
    def before(request: Any, context: grpc.ServicerContext) -> None:
        refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL")

    server.servicer.before = before
    with ClientProcesses(target(server), WORK, 2) as sending:
        sending.prepare(Load(rate=float("inf"), requests=6))
        samples = merged(sending.run(None))
    assert [sample.error for sample in samples] == ["RESOURCE_EXHAUSTED"] * 6


def test_a_process_that_dies_is_an_error_and_not_a_hang(server: FakeServer) -> None:
    with ClientProcesses(target(server), WORK, 2) as sending:
        sending.prepare(Load(rate=1.0, requests=100))
        os.kill(sending._processes[1].pid, signal.SIGKILL)
        with pytest.raises(ClientDied, match="client process 1 ended with exit code -9"):
            sending.run(None)
        left = list(sending._processes)
    assert not any(process.is_alive() for process in left)


def test_nothing_runs_that_was_not_prepared(server: FakeServer) -> None:
    with OwnProcess(target(server), WORK) as sending, pytest.raises(RuntimeError, match="before prepare"):
        sending.run(None)


def test_a_load_that_is_left_in_the_middle_sends_no_more(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(tally: Tally) -> None:
        raise SystemExit(1)

    with OwnProcess(target(server), WORK) as sending:
        sending.prepare(Load(rate=2000, duration=600))
        with pytest.raises(SystemExit):
            sending.run(leave)
    gc.collect()  # tasks whose exception nobody took tell of it when they go
    assert "the client is closed" not in caplog.text
