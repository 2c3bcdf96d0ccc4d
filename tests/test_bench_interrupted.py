"""``seqserve bench`` that is stopped in the middle, with its client processes."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from cli_process import start
from fake_server import FakeServer


def alive_children(parent: int) -> set[int]:
    """Processes of a parent, those that nobody has waited for yet left out."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, of = path.read_text().rpartition(")")[2].split()[:2]
            if int(of) == parent and state != "Z":
                found.add(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_client_process_outlives_the_command(server: FakeServer, how: signal.Signals, code: int) -> None:
    process = start(
        "bench", "--target", server.target, "--processes", "2", "--rate", "50", "--duration", "600", "--warmup", "0",
        start_new_session=True,
    )
    try:
        while len(server.servicer.calls) < 10:
            time.sleep(0.01)
        children = alive_children(process.pid)
        assert len(children) >= 2
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does: the client processes get it too
        else:
            process.send_signal(how)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (code, "")
        assert errors == ""
        while any(is_alive(pid) for pid in children):  # else ended by the suite's own time limit
            time.sleep(0.01)
    finally:
        process.kill()
