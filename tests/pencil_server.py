"""A server process around the pencil's engine with faults: ``python -m pencil_server SETTING=VALUE ...``.

It is ``seqserve serve`` in all but the model: the same signals, the same exit codes. Requests ask for faults by
tokens of their source, unless ``faults`` is 0.
"""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from arithmetic_engine import ArithmeticEngine
from faulty_engine import FaultyEngine
from seqserve_server import event_loop, service
from seqserve_server.config import ServerConfig
from seqserve_server.crash_journal import CrashJournal
from seqserve_server.served_model import ServedModel
from seqserve_server.server import serve
from seqserve_server.suspects import Suspects
from serving import make_config, make_model

NAN, BAD_STEP, BAD_ENCODE, HANG, DIE, KILL = 28, 27, 22, 25, 24, 23


@dataclass
class Process:
    """A running one."""

    process: "subprocess.Popen[str]"
    target: str
    metrics: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid


@contextlib.contextmanager
def pencil_server(
    *, step_seconds: float = 0.0, rows: int = 64, stderr: IO[bytes] | None = None, **config: Any
) -> Iterator[Process]:
    """Started and ready; killed at the end if it has not ended by itself."""
    given = {"step_seconds": step_seconds, "max_rows": rows, "log_level": "critical", **config}
    process = subprocess.Popen(
        [sys.executable, "-m", "pencil_server", *(f"{name}={value}" for name, value in given.items())],
        stdout=subprocess.PIPE, stderr=stderr, text=True,
        env={"GRPC_VERBOSITY": "NONE", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        assert ready[:1] == ["ready"], "it did not start"
        yield Process(process, ready[1].removeprefix("grpc="), ready[2].removeprefix("metrics="))
    finally:
        process.kill()
        process.communicate()


def _unread_option() -> None:
    """Planted: a field that nobody checks."""
    def broken(*arguments: object, **named: object) -> None:
        raise KeyError("an option nobody thought of")

    vars(service)["read_inputs"] = broken


def _nothing_noted() -> None:
    """Planted: a crash leaves nothing behind."""
    CrashJournal.enter = lambda self, digest: None  # type: ignore[method-assign]


def _all_suspects_at_once() -> None:
    """Planted: suspects do not wait for one another."""
    Suspects.take_turn = lambda self: True  # type: ignore[method-assign]


PLANTS = {
    "unread option": _unread_option, "nothing noted": _nothing_noted, "all suspects at once": _all_suspects_at_once,
}


def main() -> int:
    """Serve."""
    given = dict(entry.split("=", 1) for entry in sys.argv[1:])
    step_seconds = float(given.pop("step_seconds", "0"))
    longest = int(given.pop("longest", "64"))
    level = given.pop("log_level", "critical")
    faults = bool(int(given.pop("faults", "1")))
    if plant := given.pop("plant", ""):
        PLANTS[plant]()
    host = given.pop("host", "127.0.0.1")
    journal = Path(given.pop("crash_journal")) if "crash_journal" in given else None
    numbers = {name: int(value) for name, value in given.items()}
    config = make_config(bundles=(Path("pencil"),), host=host, crash_journal=journal, **numbers)
    logging.basicConfig(level=level.upper(), stream=sys.stderr)
    loops: list[asyncio.AbstractEventLoop] = []
    rows, positions = max(128, config.max_rows), max(128, longest)
    pencil = ArithmeticEngine(config.cache_bytes, rows, positions)
    for name in ("encoded", "steps", "moves", "copies", "passes"):
        setattr(pencil, name, deque(maxlen=1))  # tests in one process read its books; here they would only grow
    engine = FaultyEngine(pencil)
    engine.seconds = step_seconds
    if faults:
        engine.nan, engine.bad_step, engine.bad_encode, engine.bad_score = NAN, BAD_STEP, BAD_ENCODE, BAD_STEP
        engine.hanging, engine.deadly, engine.killing = HANG, DIE, KILL

    def load(given: ServerConfig) -> ServedModel:
        return make_model(given, engine, max_target_length=longest)  # type: ignore[arg-type]

    async def run() -> int:
        loops.append(asyncio.get_running_loop())
        if "PENCIL_HANGS_WHOLE" in os.environ:
            def stand_still() -> None:
                loops[0].call_soon_threadsafe(time.sleep, 600)

            engine.on_hang = stand_still
        return await serve(config, lambda line: print(line, flush=True), load)  # noqa: T201

    return event_loop.run(run())


if __name__ == "__main__":
    sys.exit(main())
