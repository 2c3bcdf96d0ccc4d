"""The benchmark's own frames are calls to a real server, and what it makes of the answers is what they were."""

import contextlib
import json

import pytest

from ours import light_generator
from ours.wire import Connection
from pencil_server import Process, pencil_server
from seqserve_client import messages

METHOD = light_generator.METHOD


def opened(server: Process) -> "contextlib.closing[Connection]":
    return contextlib.closing(Connection(server.target, METHOD))


def body(token_ids: list[int]) -> bytes:
    return messages.generate_request(None, None, [token_ids], None, {"max_new_tokens": 3}).SerializeToString()


def drained(connection: Connection) -> None:
    while True:
        connection.read()


def ends(connection: Connection) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while connection.open:
        found += connection.read()
    return found


def test_an_answer_and_a_refusal_are_told_apart() -> None:
    with pencil_server() as server, opened(server) as connection:
        good, bad = connection.call(body([5, 6])), connection.call(body([5, 10_000]))
        assert dict(ends(connection)) == {good: "OK", bad: "INVALID_ARGUMENT"}


def test_many_calls_pass_through_one_connection() -> None:
    with pencil_server() as server, opened(server) as connection:
        for _ in range(20):
            for _ in range(50):
                connection.call(body([5] * 30))
            assert {code for _, code in ends(connection)} == {"OK"}


@pytest.mark.parametrize("load", [{"rate": 200.0, "duration": 0.5}, {"concurrency": 4, "duration": 0.2, "warmup": 1}])
def test_every_request_of_a_load_has_one_end(load: dict[str, float]) -> None:
    with pencil_server(rows=1, max_waiting=1, step_seconds=0.002) as server:
        command = {"target": server.target, "load": load, "sources": [[5, 6], [7, 8]], "options": {"max_new_tokens": 3}}
        samples = light_generator.drive(json.loads(json.dumps(command)))
    assert len(samples) > 10
    assert {error for *_, error in samples} <= {None, "RESOURCE_EXHAUSTED"}
    assert any(error is None for *_, error in samples)
    assert all(intended <= sent <= ended for intended, sent, ended, _, _ in samples)


def test_a_server_that_goes_away_ends_its_calls() -> None:
    with contextlib.ExitStack() as opening:
        with pencil_server() as server:
            connection = opening.enter_context(opened(server))
            connection.call(body([5, 6]))
            ends(connection)
        with pytest.raises(ConnectionError):
            drained(connection)
