"""Systems under measurement as processes of their own, of which all but one are stopped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker import Sources, Turn

BENCH = Path(__file__).resolve().parent
STARTUP_SECONDS = 300
_READY = re.compile(r"ready grpc=(\S+) metrics=(\S+)")


class Process:
    """A child with pipes. Stopped by a signal while others are measured: idle pools of threads spin otherwise."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # The stubs, too: the peers' environment has no seqserve.
        search = os.pathsep.join(filter(None, [str(BENCH), str(BENCH.parent / "proto"), os.environ.get("PYTHONPATH")]))
        self._child = subprocess.Popen(
            list(arguments), text=True, bufsize=1, env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self._command = " ".join(arguments)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def read_line(self) -> str:
        """The next line of its stdout.

        Raises:
            ChildProcessError: it has ended instead.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise ChildProcessError(f"ended with {self._child.wait()}: {self._command}")
        return line

    def write_line(self, text: str) -> None:
        """One line to its stdin."""
        assert self._child.stdin is not None
        self._child.stdin.write(text + "\n")
        self._child.stdin.flush()

    def pause(self) -> None:
        """Stop all of its threads."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._child.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end, and make it."""
        self.resume()
        self._child.terminate()
        try:
            self._child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()


@dataclass
class System:
    """A worker, and whatever else must run while it works."""

    name: str
    versions: dict[str, str]
    settings: str
    worker: Process
    others: list[Process] = field(default_factory=list)

    @property
    def processes(self) -> list[Process]:
        """All of its processes."""
        return [*self.others, self.worker]

    def turn(self, batches: list[Sources]) -> Turn:
        """Wake up, work, stop again."""
        for process in self.processes:
            process.resume()
        self.worker.write_line(json.dumps({"batches": batches}))
        answer = json.loads(self.worker.read_line())
        self.pause()
        return Turn(answer["seconds"], answer["token_ids"])

    def pause(self) -> None:
        """Stop all of its processes."""
        for process in self.processes:
            process.pause()


@dataclass(frozen=True)
class Server:
    """A running ``seqserve serve``, or a peer that says like it when it is ready."""

    process: Process
    target: str
    metrics: str


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[Process]:
    """A child that ends with the block."""
    process = Process(arguments)
    try:
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def running_server(bundle: Path, *flags: str, program: Sequence[str] = ("-m", "seqserve_cli")) -> Iterator[Server]:
    """The server on free ports, ready. It keeps no encoded sources: workloads repeat theirs, and peers keep none."""
    with ready_server([
        sys.executable, *program, "serve", str(bundle), "--port", "0", "--metrics-port", "0",
        "--encoder-cache-bytes", "0", "--log-level", "warning", *flags,
    ]) as server:
        yield server


@contextlib.contextmanager
def ready_server(arguments: Sequence[str]) -> Iterator[Server]:
    """A command that has said on its first line where it serves."""
    with running(arguments) as process:
        ready = _READY.search(process.read_line())
        if ready is None:
            raise ChildProcessError("the server's first line is not its ready line")
        yield Server(process, ready[1], ready[2])


@contextlib.contextmanager
def running_system(arguments: Sequence[str], others: Sequence[Process] = ()) -> Iterator[System]:
    """A worker that has said it is ready, stopped with its other processes until its first turn."""
    with running(arguments) as worker:
        hello: dict[str, Any] = json.loads(worker.read_line())
        system = System(hello["system"], hello["versions"], hello["settings"], worker, list(others))
        system.pause()
        yield system
