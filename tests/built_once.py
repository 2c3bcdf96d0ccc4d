"""What several processes of one test run need and is slow to make: the first that wants it makes it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def run_directory(factory: pytest.TempPathFactory) -> Path:
    """A directory of this run that all its workers share; without workers, that of the one process."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def built_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """A directory, made by ``make`` if nobody has yet; whoever comes meanwhile waits. It is read only from then on.

    Args:
        make: Fills the directory, which is there and empty. If it raises, the next one tries again.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = directory.with_name(f"{directory.name}.made")
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, or its process is gone
        if not made.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            made.touch()
    return directory
