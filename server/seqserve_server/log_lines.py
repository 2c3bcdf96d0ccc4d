"""How log lines look: text for people, or one JSON object a line for machines. All of them go to stderr.

Of an exception they hold the types and the places in the code. Its message may quote what a user sent, and a traceback
shows paths of the machine: both are written at level debug only.
"""

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from seqserve_server.call_record import CURRENT

FORMATS = ("console", "json")
MOST_FRAMES = 6
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """What both have in common: exceptions. ``whole`` writes them with message and traceback."""

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._whole = whole

    def format(self, record: logging.LogRecord) -> str:
        """One line: breaks become visible, so that nothing that is logged can pass for a record of its own."""
        if self._whole:
            return super().format(record)
        # Another handler may have left its own form of the exception on the record, and would find ours there.
        others, record.exc_text = record.exc_text, None
        try:
            return super().format(record).replace("\r", "\\r").replace("\n", " | ")
        finally:
            record.exc_text = others

    def formatException(self, ei: ExceptionInfo) -> str:
        """Kinds and places, the exception's and those of its causes."""
        if self._whole or ei[1] is None:
            return super().formatException(ei)
        parts: list[str] = []
        error: BaseException | None = ei[1]
        while error is not None:
            parts.append(where(type(error), error.__traceback__))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "; caused by ".join(parts)


def where(kind: type[BaseException], trace: TracebackType | None) -> str:
    """Such as ``KeyError at messages.py:70 in read_options < service.py:50 in Generate``, innermost first."""
    frames = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(trace)]
    shown = " < ".join(reversed(frames[-MOST_FRAMES:]))
    return f"{kind.__module__}.{kind.__qualname__}" + (f" at {shown}" if shown else "")


class ConsoleFormatter(LineFormatter):
    """``2026-01-31 12:00:00,000 INFO logger message key=value``."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, its fields behind it."""
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        return f"{super().formatMessage(record)} {fields}" if fields else super().formatMessage(record)


class JsonFormatter(LineFormatter):
    """One object: ``timestamp``, ``level``, ``logger``, ``event``, then the call's ids and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. The names of the trace context's fields are those that OpenTelemetry gives them in any format."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "timestamp": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(),
            "logger": record.name, "event": record.getMessage(),
        }
        line |= fields_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The ids of the call that the line is written for, and what was logged with ``extra={"fields": {...}}``."""
    found: dict[str, Any] = {}
    call = CURRENT.get()
    if call is not None:
        found["request_id"] = call.request_id
        if (ids := call.trace_ids()) is not None:
            found["trace_id"], found["span_id"], found["trace_flags"] = ids
    return found | getattr(record, "fields", {})


def configure(level: str, form: str) -> None:
    """Set up the root logger of this process.

    Args:
        level: "debug" to "error".
        form: One of ``FORMATS``.
    """
    handler = logging.StreamHandler(sys.stderr)
    kind = JsonFormatter if form == "json" else ConsoleFormatter
    handler.setFormatter(kind(whole=level == "debug"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
