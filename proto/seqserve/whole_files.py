"""Reading files whole, none of which is trusted: vocabularies, settings, SentencePiece models.

Whoever clones a repository without Git LFS has pointers in place of files, which would read as damage; they are told.
"""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from seqserve.bundle import BundleError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_bytes(path: Path, shown: str) -> bytes:
    """A file's bytes.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{shown}: cannot be read: {error.strerror}") from None
    if data.startswith(LFS_POINTER):
        raise BundleError(f"{shown}: {lfs_pointer(len(data))}")
    return data


def lfs_pointer(size: int) -> str:
    """What is said of a pointer of so many bytes."""
    return f"a Git LFS pointer of {size} bytes, not the file; run `git lfs pull`"


def read_json(path: Path, shown: str) -> Any:
    """Any JSON value from a file; numbers are finite, as in JSON's own grammar, and not as in Python's.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    data = read_bytes(path, shown)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{shown}: not JSON, or truncated: {error}") from None


def read_object(path: Path, shown: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    values = read_json(path, shown)
    if not isinstance(values, dict):
        raise BundleError(f"{shown}: not a JSON object")
    return values


def read_vocabulary(path: Path, shown: str) -> dict[str, int]:
    """Token to id from a file, which has some.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    values = read_object(path, shown)
    if not values:
        raise BundleError(f"{shown}: has no tokens")
    for token, token_id in values.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise BundleError(f"{shown}: the id of {token!r:.60} is {token_id!r:.40}, not a number from 0")
    return values


def read_entries(path: Path, shown: str) -> tuple[str, ...]:
    """A JSON list of strings that can be written in UTF-8: JSON can hold half of a surrogate pair, no message can.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    entries = read_json(path, shown)
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BundleError(f"{shown}: not a list of tokens")
    if (bad := next((entry for entry in entries if not _is_text(entry)), None)) is not None:
        raise BundleError(f"{shown}: {bad!r:.60} cannot be written in UTF-8")
    return tuple(entries)


def _is_text(entry: str) -> bool:
    try:
        entry.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse_number(text)
    return value
