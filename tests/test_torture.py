"""The rows of ``make torture`` with small counts, and a planted bug for each that its check finds."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pencil_server import Process, pencil_server
from seqserve_server import listening
from seqserve_server.loop import Loop
from seqserve_server.scheduler import Scheduler
from seqserve_server.served_models import ServedModels
from test_isolation import FailsEverybody
from torture import (
    bundles,
    callers,
    faults,
    garbage,
    hostile,
    losses,
    poison,
    restarts,
    slots,
    swap_memory,
    swaps,
    vanishing,
)


@pytest.mark.parametrize(
    ("row", "count"),
    [(callers.cancels, 320), (callers.deadlines, 150), (garbage.parsed, 20_000), (garbage.sent, 600),
     (hostile.connections, 1000), (faults.step_faults, 200), (losses.kills, 12), (losses.hangs, 1),
     (poison.poison, 2), (restarts.restarts, 2), (vanishing.resets, 200), (vanishing.client_kills, 20),
     (slots.reused_slots, 300)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_row_holds(row: Callable[[int], Any], count: int) -> None:
    assert await row(count)


async def test_clients_that_never_read_cost_little_and_hold_up_nobody() -> None:
    assert await garbage.readers(60)


async def test_cancelled_calls_that_keep_their_rows_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Scheduler.cancel
    monkeypatch.setattr(Scheduler, "cancel", lambda *arguments: cancel(*arguments)[:0])
    monkeypatch.setattr(callers, "PHASES", ("streaming",))
    monkeypatch.setattr(callers, "PATIENCE", 2.0)
    with pytest.raises(TimeoutError):
        await callers.cancels(40)


@pytest.mark.parametrize("row", [vanishing.resets, vanishing.client_kills], ids=lambda row: row.__name__)
async def test_clients_that_vanish_and_keep_their_rows_are_found(
    row: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "cancel", lambda self, request_ids: None)
    monkeypatch.setattr(vanishing, "PHASES", ("streaming",))
    monkeypatch.setattr(vanishing, "PATIENCE", 3.0)
    with pytest.raises(TimeoutError):
        await row(10)


async def test_clients_that_a_network_cuts_off_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "KEEPALIVE_MS", 1000)
    monkeypatch.setattr(listening, "KEEPALIVE_TIMEOUT_MS", 2000)
    assert await vanishing.black_holes(6)


async def test_a_server_that_does_not_notice_them_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: the answer to a ping is waited for as gRPC does by itself."""
    monkeypatch.setattr(listening, "KEEPALIVE_MS", 1000)
    monkeypatch.setattr(listening, "KEEPALIVE_TIMEOUT_MS", 1000)
    honest = listening.keepalive
    monkeypatch.setattr(listening, "keepalive", lambda: [each for each in honest() if "http2" not in each[0]])
    monkeypatch.setattr(vanishing, "PATIENCE", 3.0)
    with pytest.raises(TimeoutError):
        await vanishing.black_holes(2)


async def test_deadlines_that_nobody_keeps_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "cancel", lambda self, request_ids: None)
    monkeypatch.setattr(Scheduler, "_expire", lambda self, now: [])
    with pytest.raises(AssertionError, match="after their deadlines"):
        await callers.deadlines(150)


async def test_a_field_that_nobody_checks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise KeyError("an option nobody thought of")

    monkeypatch.setattr(garbage, "read_inputs", broken)
    with pytest.raises(KeyError):
        await garbage.parsed(1000)


async def test_an_isolation_that_fails_innocent_requests_is_found() -> None:
    with pytest.raises(AssertionError, match="innocent"):
        await faults.step_faults(50, FailsEverybody)


async def test_slots_that_keep_what_was_not_finite_are_found() -> None:
    with pytest.raises(AssertionError, match="failed that were well"):
        await slots.reused_slots(50, slots.Unzeroed)


async def test_servers_that_do_not_drain_lose_answers_in_a_restart() -> None:
    """The planted bug: killed at once, to callers who do not try again."""
    with pytest.raises(AssertionError, match="lost"):
        await restarts.restarts(1, callers=24, max_attempts=1, stop=signal.SIGKILL)


async def test_a_field_that_nobody_checks_is_found_over_the_wire_too() -> None:
    with pytest.raises(AssertionError, match="INTERNAL"):
        await garbage.sent(200, "unread option")


async def test_callers_of_an_engine_that_died_who_are_told_nothing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "STUCK_SECONDS", 2.0)
    monkeypatch.setattr(losses, "_process", lambda token: losses._thread)
    monkeypatch.setattr(Loop, "close", lambda self: None)
    monkeypatch.setattr(ServedModels, "close", lambda self, why: None)
    with pytest.raises(AssertionError, match=r"still inside|left waiting"):
        await losses.kills(1)


@pytest.mark.parametrize(("plant", "said"), [
    ("nothing noted", "restarts for one input"), ("all suspects at once", "innocent input was refused"),
])
async def test_a_quarantine_that_does_not_hold_is_found(plant: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        await poison.poison(8, plant)


@contextlib.contextmanager
def behind_a_relay() -> Iterator[Process]:
    """A server whose connections come by way of this process, which closes none that it accepted: the planted leak."""
    with pencil_server() as server, socket.create_server(("127.0.0.1", 0)) as door:
        host, port = server.target.rsplit(":", 1)
        kept: list[socket.socket] = []

        def carry(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = door.accept()
                    far = socket.create_connection((host, int(port)))
                    kept.extend((near, far))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield Process(_This(), f"127.0.0.1:{door.getsockname()[1]}")  # type: ignore[arg-type]
        finally:
            door.shutdown(socket.SHUT_RDWR)
            for each in kept:
                each.close()


class _This:
    """This process, where a server's is looked at."""

    pid = os.getpid()


async def test_connections_whose_descriptors_stay_open_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "SETTLE_SECONDS", 1.0)
    with pytest.raises(AssertionError, match="descriptors left"):
        await hostile.connections(100, behind_a_relay)


async def test_swaps_leave_memory_as_it_was(tiny_bundle: Path) -> None:
    assert await swaps.swap_memory(8, tiny_bundle)


async def test_versions_that_stay_in_memory_are_found(tiny_bundle: Path) -> None:
    with pytest.raises(AssertionError, match="KiB"):
        await swaps.swap_memory(12, tiny_bundle, swap_memory.PLANTED)


async def test_damaged_bundles_are_refused_in_one_line_or_open(tiny_bundle: Path) -> None:
    assert "refused" in await bundles.bundles(60, tiny_bundle)


async def test_a_reader_of_bundles_that_raises_what_nobody_catches_is_found(tiny_bundle: Path) -> None:
    with pytest.raises(AssertionError, match="KeyError at seed"):
        await bundles.bundles(20, tiny_bundle, "raise")
