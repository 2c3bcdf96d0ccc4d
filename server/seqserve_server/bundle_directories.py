"""Which bundles the paths of ``serve`` mean, and whether anything about one has changed."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from seqserve.bundle import BundleError
from seqserve.manifest import MANIFEST_FILE
from seqserve_server.errors import StartupError

_VERSION = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Found:
    """A bundle where one was looked for.

    Attributes:
        path: As it was found; links are not followed.
        version: The start of the manifest's SHA-256; "" where there is no manifest.
        traces: Changes when a file of it is written or replaced, or a link on the way to it is turned.
    """

    path: Path
    version: str
    traces: str


@dataclass(frozen=True, slots=True)
class Search:
    """What the paths hold. ``ignored`` says what was left out of directories, and why."""

    bundles: tuple[Path, ...]
    ignored: tuple[str, ...]


def find_bundles(paths: tuple[Path, ...]) -> Search:
    """Bundles themselves, and those that lie in directories: ``MODEL/`` or ``MODEL/VERSION/``, with whole numbers as
    versions, of which the highest counts.

    A path that holds none is taken for a bundle, so that opening it tells what is wrong.
    """
    bundles: list[Path] = []
    ignored: list[str] = []
    for path in paths:
        if _is_bundle(path) or not path.is_dir():
            bundles.append(path)
            continue
        found = _versions(path)
        if found is None:
            inside = [_inside(each) for each in _directories(path)]
            found = [each for each in inside if isinstance(each, Path)]
            ignored += [each for each in inside if isinstance(each, str)]
        bundles += found or [path]
    return Search(tuple(dict.fromkeys(bundles)), tuple(ignored))


def look_at(path: Path) -> Found:
    """A bundle's state, from its manifest and the sizes and times of its files, none of which is read."""
    try:
        real = path.resolve()
        data = (real / MANIFEST_FILE).read_bytes()
    except (OSError, RuntimeError):  # the latter: links in a circle
        return Found(path, "", "")
    try:
        names = sorted(json.loads(data)["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        names = []  # whoever opens it will say so
    traces = [str(real)]
    for name in (MANIFEST_FILE, *names):
        try:
            status = (real / name).stat()
            traces.append(f"{name} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
        except (OSError, ValueError, TypeError):
            traces.append(f"{name} missing")
    return Found(path, hashlib.sha256(data).hexdigest()[:12], "\n".join(traces))


def _inside(path: Path) -> Path | str:
    """The bundle of a directory that lies in one that was given, or why it has none."""
    if _is_bundle(path):
        return path
    versions = _versions(path)
    return versions[0] if versions else f"{path}: neither a bundle nor a directory of numbered versions"


def _versions(path: Path) -> list[Path] | None:
    """The highest numbered bundle of a directory, alone; None where there is none.

    Raises:
        StartupError: there are other bundles beside it.
    """
    bundles = [each for each in _directories(path) if _is_bundle(each)]
    numbered = [each for each in bundles if _VERSION.fullmatch(each.name)]
    if not numbered:
        return None
    if len(numbered) < len(bundles):
        other = next(each for each in bundles if each not in numbered)
        raise StartupError(f"{path}: holds both versions ({numbered[0].name}) and models ({other.name})")
    return [max(numbered, key=lambda each: (int(each.name), each.name))]


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _is_bundle(path: Path) -> bool:
    try:
        return (path / MANIFEST_FILE).is_file()
    except OSError:  # something that may not be looked at: opening it tells what is wrong
        return True
