"""What is read from files and read again when they change: certificates and tokens are renewed without a restart."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from seqserve_server.errors import StartupError

logger = logging.getLogger(__name__)
Value = TypeVar("Value")
RECHECK_SECONDS = 1.0
MAX_FILE_BYTES = 1 << 20


class WatchedFiles(Generic[Value]):
    """The value that ``read`` makes of some files; threads may share it.

    Files that cannot be read, or not understood, leave the value as it was: whoever renews them does not stop a server
    by a mistake. They are tried again at every look, and when they change: a certificate whose time begins in a minute
    needs no other change to become one that can be used.
    """

    def __init__(
        self, what: str, paths: Sequence[Path], read: Callable[[], Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read for the first time.

        Args:
            what: For the log, such as "the tokens".
            read: Raises StartupError where it makes nothing of the files.
            clock: Seconds; the files are looked at once in ``RECHECK_SECONDS`` at most.

        Raises:
            StartupError: what ``read`` raised.
        """
        self._what, self._paths, self._read, self._clock = what, paths, read, clock
        self._lock = threading.Lock()
        self._looked_at = clock()
        # Taken before reading: what changes meanwhile is seen as a change afterwards.
        self._stamps = self._look()
        self._value = read()
        self._refused = ""  # why what lies there now was not taken
        self._renewals = self._refusals = 0

    def current(self) -> Value:
        """The newest value."""
        with self._lock:
            if self._clock() - self._looked_at >= RECHECK_SECONDS:
                self._looked_at = self._clock()
                if (stamps := self._look()) != self._stamps:
                    self._stamps, self._refused = stamps, ""
                    self._renew()
                elif self._refused:
                    self._renew()
            return self._value

    @property
    def counts(self) -> tuple[int, int]:
        """How many changes were taken, and how many were refused, each once however often it was tried."""
        with self._lock:
            return self._renewals, self._refusals

    def _renew(self) -> None:
        try:
            self._value = self._read()
        except StartupError as error:
            if not self._refused:  # once for each change: the next look would say it again
                self._refusals += 1
                logger.error("%s stay as they were: %s", self._what, error)
            self._refused = str(error)
        else:
            self._refused = ""
            self._renewals += 1
            logger.info("%s were read again", self._what)

    def _look(self) -> list[tuple[int, int, int] | None]:
        """Kubernetes renews a mounted secret by turning a link, which changes none of the files behind the old one."""
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_bytes(path: Path, flag: str) -> bytes:
    """A whole file.

    Raises:
        StartupError: it cannot be read or is over ``MAX_FILE_BYTES``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StartupError(f"{flag}: cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise StartupError(f"{flag}: {path} is over {MAX_FILE_BYTES} bytes")
    return content
