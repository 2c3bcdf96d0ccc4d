"""The rows of ``make torture`` with small counts, and a planted bug for each that its check finds."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from seqserve_server.loop import Loop
from seqserve_server.scheduler import Scheduler
from test_isolation import FailsEverybody
from torture import callers, garbage, losses


@pytest.mark.parametrize(
    ("row", "count"),
    [(callers.cancels, 640), (callers.deadlines, 200), (garbage.parsed, 20_000), (garbage.sent, 1000),
     (garbage.connections, 300), (losses.step_faults, 200), (losses.kills, 2), (losses.hangs, 1), (losses.restarts, 4)],
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
        await losses.step_faults(50, FailsEverybody)


async def test_servers_that_do_not_drain_lose_answers_in_a_restart() -> None:
    """The planted bug: killed at once, to callers who do not try again."""
    with pytest.raises(AssertionError, match="lost"):
        await losses.restarts(2, callers=24, max_attempts=1, stop=signal.SIGKILL)
