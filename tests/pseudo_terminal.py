"""A terminal for tests: what a command draws is seen as text and colours on a screen of so many columns.

The screen is pyte's. Like xterm it draws each part of a joined emoji by itself.
"""

import codecs
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import pyte

INTERRUPT = b"\x03"  # what Ctrl-C types


class Screen(pyte.Screen):
    """pyte's drops what stands behind a joiner in one piece of text; drawn character by character nothing is lost."""

    def draw(self, data: str) -> None:
        for letter in data:
            super().draw(letter)


def lines(screen: pyte.Screen) -> list[str]:
    """What can be read, without spaces at the right and empty lines at the end."""
    # Not ``screen.display``, which fails where the right half of a wide letter is all that is left of it.
    shown = []
    for row in range(max(screen.buffer, default=-1) + 1):
        cells: Mapping[int, Any] = screen.buffer.get(row, {})
        letters = (cells[column].data if column in cells else " " for column in range(screen.columns))
        shown.append("".join(letters).rstrip())
    while shown and not shown[-1]:
        shown.pop()
    return shown


def colours(screen: pyte.Screen, line: int) -> dict[int, str]:
    """Columns of a line that are written in a colour."""
    return {column: cell.fg for column, cell in sorted(screen.buffer[line].items()) if cell.fg != "default"}


def drawn(text: str, columns: int = 80, height: int = 200) -> Screen:
    """A screen onto which the text was written, line ends as a terminal's driver turns them."""
    screen = Screen(columns, height)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return screen


class PseudoTerminal:
    """A command that runs in a terminal; a context manager.

    Args:
        arguments: Of ``seqserve``.
        environment: Variables beside the usual ones.
    """

    def __init__(
        self, *arguments: str, columns: int = 80, height: int = 40, environment: Mapping[str, str] | None = None
    ) -> None:
        self.screen = Screen(columns, height)
        self.written = ""
        self._stream, self._decoder = pyte.Stream(self.screen), codecs.getincrementaldecoder("utf-8")()
        self._ours, theirs = pty.openpty()
        self.resize(columns, height, told=False)
        # A session of its own takes the terminal over, so that Ctrl-C is a signal to it and to nobody else.
        start = "import fcntl, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        # A child inherits ignored signals.
        start += "signal.signal(signal.SIGINT, signal.default_int_handler); "
        start += "from seqserve_cli.main import main; sys.exit(main())"
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        path = os.pathsep.join(filter(None, sys.path))
        settings = {"TERM": "xterm-256color", "PYTHONPATH": path, **(environment or {})}
        self.process: Any = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", start, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env={**kept, **settings}, start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def resize(self, columns: int, height: int = 40, *, told: bool = True) -> None:
        """Another size of the window; the lines on the screen stay as they are."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
        if told:
            self.screen.resize(height, columns)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def read_until(self, seen: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
        """The lines of the screen, once they are as wanted, or when the command has ended."""
        end = time.monotonic() + seconds
        while not seen(lines(self.screen)):
            if not select.select([self._ours], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the screen shows {lines(self.screen)}")
            if not self._read():
                break
        return lines(self.screen)

    def read(self) -> list[str]:
        """The lines of the screen when the command has ended."""
        shown = self.read_until(lambda _: False)
        self.process.wait()
        return shown

    def _read(self) -> bytes:
        data = b""
        with contextlib.suppress(OSError):  # Linux' way to say that the other side is closed
            data = os.read(self._ours, 65_536)
        text = self._decoder.decode(data)
        self.written += text
        self._stream.feed(text)
        return data
