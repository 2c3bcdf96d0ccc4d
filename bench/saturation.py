"""Where the server's processor time goes while 64 clients keep it busy: thread by thread, from /proc."""

import re
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from machine import TICK
from processes import running_server, running_system
from spread import table
from workload import THREADS, contents

ENGINE = ("engine", "runtime-pool")  # the engine's thread, and the runtime's pool that computes for it
PYTHON = {"engine": "scheduling, choice, and its half of the runtime's work", "runtime-pool": "the runtime's pool",
          "event-loop": "gRPC calls, messages, dispatch"}
_SUM = re.compile(r"^seqserve_(decode_step|encode)_seconds_sum\S* (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Saturation:
    """Processor seconds by thread name, and how the engine thread's wall time divided."""

    by_thread: dict[str, float]
    seconds: float
    in_runtime: float

    @property
    def outside(self) -> float:
        """Processor time outside the engine, as a part of the process's."""
        total = sum(self.by_thread.values())
        return 1 - sum(self.by_thread.get(name, 0.0) for name in ENGINE) / total


def thread_seconds(pid: int) -> dict[str, float]:
    """Processor time so far of a process's threads, those of one name together."""
    seconds: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        seconds[name] = seconds.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICK
    return seconds


def runtime_seconds(metrics: str) -> float:
    """Wall time in encoder batches and decoder steps so far, from the server's own metrics."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as response:
        return sum(float(match[2]) for match in _SUM.finditer(response.read().decode()))


def measure(bundle: Path, clients: int, repeats: int) -> Saturation:
    """Closed-loop clients, ``repeats`` calls each."""
    program = ("-m", "ours.named_server")
    with (
        running_server(bundle, "--threads", str(THREADS), program=program) as server,
        running_system([sys.executable, "-m", "ours.clients", server.target]) as system,
    ):
        system.turn([contents(clients)])
        before, runtime, begun = thread_seconds(server.process.pid), runtime_seconds(server.metrics), time.monotonic()
        system.turn([contents(clients)] * repeats)
        after = thread_seconds(server.process.pid)
        spent = {name: total - before.get(name, 0.0) for name, total in after.items()}
        seconds = time.monotonic() - begun
        return Saturation(spent, seconds, runtime_seconds(server.metrics) - runtime)


def report(result: Saturation, clients: int) -> str:
    """Table of threads, and the two figures."""
    total, computing = sum(result.by_thread.values()), result.in_runtime / result.seconds
    rows = [
        [name, PYTHON.get(name, ""), f"{seconds:.2f}", f"{seconds / total:.1%}"]
        for name, seconds in sorted(result.by_thread.items(), key=lambda item: -item[1]) if seconds > 0
    ]
    return "\n".join([
        table(["thread", "does", "processor s", "part"], rows), "",
        f"{clients} closed-loop clients for {result.seconds:.1f} s. Outside the engine: {result.outside:.1%} of the "
        f"server's processor time (goal: 10 % at most). The engine thread spent {computing:.1%} of the "
        "wall time in encoder batches and decoder steps.",
    ])
