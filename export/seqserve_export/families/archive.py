"""Unpacking an archive that nobody vouches for: no way out of its directory, and no more than was agreed on.

Everything is counted as it comes out. What the archive says of itself (sizes, ratios) is no evidence: overlapping
entries and wrong headers make kilobytes into terabytes.
"""

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from seqserve_export.errors import ExportError

CHUNK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
# zipfile raises all of these on damaged input.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        files: Entries, directories included, wanted or not.
        size: Bytes unpacked in all.
        ratio: Bytes unpacked for each byte of the archive, once these are more than ``free``.
        path: Characters in one name.
    """

    files: int = 10_000
    size: int = 16 << 30
    ratio: int = 100
    free: int = 16 << 20
    path: int = 512


def unpack_zip(
    archive: Path, target: Path, wanted: Callable[[PurePosixPath], bool], limits: Limits | None = None
) -> None:
    """Unpack the wanted files of a zip archive into an existing directory. Every entry is checked, wanted or not.

    Raises:
        ExportError: not a zip archive or a damaged one, an entry that is neither file nor directory or leads out of
            the directory, a name that is there twice, an encrypted entry, or more than ``limits``.
    """
    limits = limits or Limits()
    try:
        allowed = min(limits.size, max(limits.free, limits.ratio * archive.stat().st_size))
        with zipfile.ZipFile(archive) as opened:
            for entry, path in list(_checked(archive, opened, limits)):
                if wanted(path):
                    allowed -= _extract(archive, opened, entry, target / path, allowed)
    except OSError as error:
        raise ExportError(f"{archive}: cannot be unpacked: {error.strerror or error}") from None
    except DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(f"{archive}: not a readable zip archive: {reason}") from None


def _checked(
    archive: Path, opened: zipfile.ZipFile, limits: Limits
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Every file's entry with its path, once all that can be said of it without unpacking has been looked at."""
    entries = opened.infolist()
    if len(entries) > limits.files:
        raise ExportError(f"{archive}: {len(entries)} entries, {limits.files} at most")
    seen: set[PurePosixPath] = set()
    for entry in entries:
        path = _inside(archive, entry, limits)
        if path in seen:
            raise ExportError(f"{archive}: {entry.filename!r} is there twice")
        seen.add(path)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if kind == stat.S_IFLNK else "neither a file nor a directory"
            raise ExportError(f"{archive}: {entry.filename!r} is {what}")
        if entry.is_dir() or kind == stat.S_IFDIR:
            continue
        if entry.flag_bits & ENCRYPTED:
            raise ExportError(f"{archive}: {entry.filename!r} is encrypted")
        if entry.compress_type not in METHODS:
            raise ExportError(f"{archive}: {entry.filename!r}: compression {entry.compress_type} is not supported")
        yield entry, path


def _inside(archive: Path, entry: zipfile.ZipInfo, limits: Limits) -> PurePosixPath:
    """An entry's path, which has to stay below the directory it is unpacked into, on any system."""
    name = entry.filename
    if len(name) > limits.path:
        raise ExportError(f"{archive}: a name of {len(name)} characters, {limits.path} at most")
    path = PurePosixPath(name)
    foreign = PureWindowsPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or foreign.drive or foreign.root:
        raise ExportError(f"{archive}: {name!r} leads out of the archive's directory")
    if not name.isprintable():
        raise ExportError(f"{archive}: {name!r} has unprintable characters")
    return path


def _extract(archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, allowed: int) -> int:
    """Write one file, and count what really comes out; returns its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(entry) as source, open(target, "xb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > allowed:
                raise ExportError(
                    f"{archive}: unpacks to more than is allowed: {entry.filename!r} passes the limit on bytes or "
                    "on the compression ratio"
                )
            file.write(chunk)
    return written
