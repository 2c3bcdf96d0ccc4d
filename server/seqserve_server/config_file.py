"""The file of ``--config``: TOML, one key per setting, spelt as the flag with dashes or with underscores."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqserve_server.errors import ConfigError

_SPOKEN = {bool: "true or false", int: "a whole number", str: "a string", Path: "a string", tuple: "a list of strings"}
MAX_FILE_BYTES = 1 << 20


def read_config_file(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Settings by name, with underscores; paths stay strings, relative ones to the working directory as in flags.

    Args:
        kinds: What each setting that there is has to be: bool, int, str, Path, or tuple for a list of strings.

    Raises:
        ConfigError: a file that cannot be read or is no TOML, an unknown key, a key twice, or a value of another kind.
    """
    values: dict[str, Any] = {}
    for key, value in _parsed(path).items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise ConfigError(f"{path}: {key}: no such setting{closest(name, kinds)}")
        if name in values:
            raise ConfigError(f"{path}: {key}: given twice, with dashes and with underscores")
        kind = kinds[name]
        if not _fits(value, kind):
            raise ConfigError(f"{path}: {key}: {value!r} is not {_SPOKEN[kind]}")
        values[name] = value
    return values


def closest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: the known one that it most resembles, if any does."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else "; `seqserve serve --help` lists them"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: over {MAX_FILE_BYTES} bytes, which is no configuration")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _fits(value: object, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is (str if kind is Path else kind)  # exactly: True is an int to isinstance
