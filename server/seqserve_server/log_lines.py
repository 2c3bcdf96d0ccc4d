"""What the log looks like: one line per record, and of an exception where it happened, not what it says.

Texts of exceptions hold what callers sent, and paths of this machine; both stay out of logs, which go to many places.
``--log-level debug`` shows them, with the whole traceback.
"""

import logging
import sys
import traceback
from pathlib import PurePath
from types import TracebackType
from typing import Any

MOST_FRAMES = 6
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up(level: str) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT) if level == "debug" else OneLine(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class OneLine(logging.Formatter):
    """Line breaks become visible, so that nothing that is logged can pass for a record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        # Another handler may have left its own form of the exception on the record, and would find ours there.
        others, record.exc_text = record.exc_text, None
        try:
            return super().format(record).replace("\r", "\\r").replace("\n", " | ")
        finally:
            record.exc_text = others

    def formatException(self, ei: Any) -> str:
        """The exception's kind and where it was raised."""
        kind, _, trace = ei
        return where(kind, trace)


def where(kind: type[BaseException] | None, trace: TracebackType | None) -> str:
    """Such as ``KeyError at messages.py:70 in read_options < service.py:50 in Generate``, innermost first."""
    frames = [
        f"{PurePath(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(trace)
    ]
    shown = " < ".join(reversed(frames[-MOST_FRAMES:]))
    return f"{kind.__name__ if kind else 'no exception'}" + (f" at {shown}" if shown else "")
