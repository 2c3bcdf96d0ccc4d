"""Recorded traffic: a file with one line per request, as JSON objects or as CSV with a header.

    {"offset": 0.31, "text": "Two dogs play.", "max_new_tokens": 20}
    {"offset": 0.48, "token_ids": [5, 17, 9]}

Only ``offset`` must be there, in seconds of any clock: the earliest line is sent at once, so times since 1970 do too.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqserve_client.load_inputs import Source

FIELDS = ("offset", "text", "token_ids", "max_new_tokens")


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One recorded request.

    Attributes:
        offset: Seconds after the first one.
        source: What it held, or None for an input from elsewhere.
        max_new_tokens: Its limit, or None for that of all requests.
    """

    offset: float
    source: Source | None = None
    max_new_tokens: int | None = None


class TraceError(ValueError):
    """A line that is no request; the message begins with "file:line: "."""


def read_trace(path: Path, speed: float = 1.0) -> tuple[TraceEntry, ...]:
    """The requests of a file, by time; ``speed`` 2 replays it in half the time.

    Raises:
        TraceError: a line is wrong, or there is none.
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    begin = next((line.lstrip() for line in lines if line.strip()), "{")
    records = _json_records if begin.startswith("{") else _rows
    entries: list[TraceEntry] = []
    try:
        entries += (_entry(number, record) for number, record in records(lines))
    except _LineError as error:
        raise TraceError(f"{path}:{error.number}: {error}") from None
    if not entries:
        raise TraceError(f"{path}:1: the trace holds no request")
    first = min(entry.offset for entry in entries)
    # Logs are written when calls end, so their lines need not be in order of arrival.
    shifted = (replace(entry, offset=(entry.offset - first) / speed) for entry in entries)
    return tuple(sorted(shifted, key=lambda entry: entry.offset))


class _LineError(ValueError):
    """What is wrong with a line."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def _json_records(lines: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _LineError(number, f"not JSON: {error}") from None
        if not isinstance(record, dict):
            raise _LineError(number, "not a JSON object")
        yield number, record


def _rows(lines: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of CSV; the line of a row is its last, as texts in quotes may hold line ends."""
    reader = csv.DictReader([line + "\n" for line in lines], strict=True)
    if "offset" not in (reader.fieldnames or ()):
        raise _LineError(1, f"neither a JSON object nor a CSV header with offset; columns: {', '.join(FIELDS)}")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _LineError(reader.line_num, "not as many cells as the header has")
            yield reader.line_num, {
                name: [_number(word, int) for word in cell.split()] if name == "token_ids"
                else cell if name == "text" else _number(cell, int if name == "max_new_tokens" else float)
                for name, cell in row.items()
                if cell.strip()  # an empty cell is a field left out
            }
    except csv.Error as error:
        raise _LineError(reader.reader.line_num, f"not CSV: {error}") from None


def _number(cell: str, kind: type[int] | type[float]) -> int | float | str:
    """The number, or else the cell itself, for ``_entry`` to refuse by name."""
    try:
        return kind(cell)
    except ValueError:
        return cell


def _entry(number: int, record: Mapping[str, Any]) -> TraceEntry:
    if unknown := sorted(set(record) - set(FIELDS)):
        raise _LineError(number, f"unknown field {unknown[0]!r}; known: {', '.join(FIELDS)}")
    offset, text, ids = record.get("offset"), record.get("text"), record.get("token_ids")
    limit = record.get("max_new_tokens")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not 0 <= offset < math.inf:
        raise _LineError(number, f"offset must be a number of seconds, 0 or more, not {offset!r}")
    if text is not None and ids is not None:
        raise _LineError(number, "text or token_ids, not both")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise _LineError(number, f"text must be a string that is not blank, not {text!r:.40}")
    if ids is not None and not (isinstance(ids, list) and ids and all(_is_count(each) for each in ids)):
        raise _LineError(number, f"token_ids must be whole numbers, 0 or more, and at least one, not {ids!r:.40}")
    if limit is not None and not (_is_count(limit) and limit):
        raise _LineError(number, f"max_new_tokens must be a whole number above 0, not {limit!r:.40}")
    return TraceEntry(float(offset), text if text is not None else ids, limit)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
