"""What a key of a configuration file may hold. Nothing is converted: JSON would carry "8", true or 8.0 for an 8."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqserve_export.errors import ExportError

MAX_POSITIONS = 1 << 17  # of tables that are computed: a typing error must not ask for gigabytes


@dataclass(frozen=True)
class Setting:
    """What is wanted, in words for errors, and whether a value is that."""

    wanted: str
    fits: Callable[[Any], bool]

    def or_null(self) -> "Setting":
        """The same, or nothing."""
        return Setting(f"{self.wanted} or null", lambda value: value is None or self.fits(value))


def integer(low: int, high: int | None = None) -> Setting:
    """A whole number within bounds, both included."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    return Setting(wanted, lambda value: _is_integer(value) and value >= low and (high is None or value <= high))


def number(low: float, high: float) -> Setting:
    """A number from ``low`` up to, but without, ``high``."""
    return Setting(
        f"a number from {low:g} to below {high:g}",
        lambda value: (_is_integer(value) or isinstance(value, float)) and math.isfinite(value) and low <= value < high,
    )


def one_of(*values: str) -> Setting:
    """One of some words."""
    return Setting(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


FLAG = Setting("true or false", lambda value: isinstance(value, bool))
TEXT = Setting("a string", lambda value: isinstance(value, str))
IDS = Setting(
    "a list of token ids",
    lambda value: isinstance(value, list) and all(_is_integer(item) and item >= 0 for item in value),
)
TOKEN_ID = Setting("a token id", lambda value: _is_integer(value) and value >= 0)
LIST = Setting("a list", lambda value: isinstance(value, list))
COLLECTION = Setting("a list or an object", lambda value: isinstance(value, list | dict))
NAMES = Setting(
    "a list of names", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
)


def check_settings(path: Path, values: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """Every key is known, and every value is what its key may hold.

    Raises:
        ExportError: naming the file, the key and what is wanted; or unknown keys.
    """
    if unknown := sorted(set(values) - set(settings)):
        raise ExportError(f"{path}: unknown keys {', '.join(unknown)}; known: {', '.join(settings)}")
    check_known(path, values, settings)


def check_known(path: Path, values: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """The same of files of other libraries, whose further keys are their own business.

    Raises:
        ExportError: naming the file, the key and what is wanted.
    """
    for name, setting in settings.items():
        if name in values and not setting.fits(values[name]):
            raise ExportError(f"{path}: {name} {values[name]!r:.80} is not {setting.wanted}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
