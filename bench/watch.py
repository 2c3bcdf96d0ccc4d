"""What a process holds and spends while others are at work, sampled from /proc in a thread."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import process_seconds
from spread import table


@dataclass(frozen=True)
class Memory:
    """Megabytes: resident now, of that the process's own, and the most ever resident."""

    resident: float
    own: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> "Memory":
        """Right now."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        resident, own, peak = (int(values[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "VmHWM"))
        return cls(resident, own, peak)


@dataclass
class Watch:
    """Samples: seconds after the start, megabytes, processor seconds so far."""

    samples: list[tuple[float, Memory, float]] = field(default_factory=list)

    @property
    def cores(self) -> float:
        """Processor seconds per second, over the whole time."""
        (begun, _, before), (ended, _, after) = self.samples[0], self.samples[-1]
        return (after - before) / max(ended - begun, 1e-9)

    def markdown(self, rows: int = 10) -> str:
        """A few samples, evenly spaced, the first and the last among them."""
        last = len(self.samples) - 1
        chosen = sorted({round(index * last / max(1, rows - 1)) for index in range(rows)})
        cells = [
            [f"{seconds:.0f}", f"{memory.resident:.1f}", f"{memory.own:.1f}"]
            for seconds, memory, _ in (self.samples[index] for index in chosen)
        ]
        return table(["s", "server resident, MB", "its own, MB"], cells)

    def to_json(self) -> list[list[float]]:
        """Seconds, resident, own, processor seconds."""
        return [[seconds, memory.resident, memory.own, spent] for seconds, memory, spent in self.samples]


@contextlib.contextmanager
def watching(pid: int, period: float = 1.0) -> Iterator[Watch]:
    """Samples every ``period`` seconds, and once more at the end."""
    watch, over, begun = Watch(), threading.Event(), time.monotonic()

    def sample() -> None:
        watch.samples.append((time.monotonic() - begun, Memory.of(pid), process_seconds(pid)))

    def run() -> None:
        while not over.wait(period):
            sample()

    sample()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        sample()
