"""The command line with its threads named for the system, so that processor time can be told apart from outside.

Python before 3.14 keeps thread names to itself. Threads of the runtime's pools inherit the name of the thread that
opens the session, which is therefore renamed meanwhile.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort

from seqserve_cli.main import main

RUNTIME = "runtime-pool"


def _comm() -> Path:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    before = _comm().read_text()
    _comm().write_text(name[:15])
    try:
        yield
    finally:
        _comm().write_text(before)


class _Session(ort.InferenceSession):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        with _named(RUNTIME):
            super().__init__(*arguments, **settings)


def _run(self: threading.Thread, run: Any = threading.Thread.run) -> None:
    with _named(self.name):
        run(self)


if __name__ == "__main__":
    ort.InferenceSession = _Session
    threading.Thread.run = _run  # type: ignore[method-assign]
    _comm().write_text("event-loop")
    sys.exit(main())
