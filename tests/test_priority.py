"""The engine's threads step back for those that answer."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pencil_server import pencil_server
from seqserve_server.priority import in_lowered_thread, lower_priority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux only")


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def before() -> Iterator[int]:
    """Of this thread, which has to keep it."""
    niceness = own_niceness()
    yield niceness
    assert own_niceness() == niceness


async def test_work_and_the_threads_it_starts_step_back_and_no_other_does(before: int) -> None:
    def work() -> list[int]:
        found = [own_niceness()]
        child = threading.Thread(target=lambda: found.append(own_niceness()))
        child.start()
        child.join()
        return found

    lowered = min(19, before + 3)
    assert await in_lowered_thread(work, 3) == [lowered, lowered]


async def test_what_the_work_raises_is_raised_where_it_is_waited_for(before: int) -> None:
    with pytest.raises(ZeroDivisionError):
        await in_lowered_thread(lambda: 1 / 0, 1)


def test_nothing_changes_where_nothing_is_asked_for(before: int) -> None:
    lower_priority(0)


def test_where_it_is_forbidden_the_thread_goes_on_and_the_log_says_so(
    before: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setpriority", forbidden)
    lower_priority(3)
    assert "keep their priority: Operation not permitted" in caplog.text


def test_a_server_s_engine_steps_back_and_its_event_loop_does_not() -> None:
    with pencil_server(engine_niceness=7) as server:
        tasks = Path(f"/proc/{server.pid}/task")
        niceness = {int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks.iterdir()}
    own = niceness.pop(server.pid)
    assert own == os.getpriority(os.PRIO_PROCESS, 0)
    assert min(19, own + 7) in niceness.values()
