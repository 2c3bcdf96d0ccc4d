"""``manifest.json``: SHA-256 and size of every file of a bundle, written last and checked first."""

import hashlib
import json
import os
import re
from pathlib import Path

from seqserve.bundle import FORMAT, TOKENIZER_FILES, WEIGHTS_FILE, BundleError

MANIFEST_FILE = "manifest.json"
REQUIRED = ("encoder.onnx", "decoder.onnx", "model.json")
OPTIONAL = (WEIGHTS_FILE, *TOKENIZER_FILES)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CHUNK = 1 << 20


def write_manifest(directory: Path) -> None:
    """List every file below ``directory``; call it when all others are in place."""
    files = {
        path.relative_to(directory).as_posix(): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    text = json.dumps({"format": FORMAT, "files": files}, indent=1, sort_keys=True) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def check_manifest(directory: Path) -> str:
    """Compare a bundle with its manifest.

    Files that the manifest does not list are never read, so they may be there (volume mounts leave such things). Those
    that would be read where they exist, the tokenizer and the weights, may not.

    Returns:
        The bundle's version: the first 12 digits of the manifest's own SHA-256.

    Raises:
        BundleError: naming the file and what is wrong with it.
    """
    if not directory.is_dir():
        raise BundleError(f"{directory}: no such bundle directory")
    path = directory / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{directory}: not a bundle: it has no {MANIFEST_FILE}") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    files = _parse(data)
    for name in REQUIRED:
        if name not in files:
            raise BundleError(f"{MANIFEST_FILE}: does not list {name}")
    for name in OPTIONAL:
        if name not in files and os.path.lexists(directory / name):
            raise BundleError(f"{name}: present, but not listed in {MANIFEST_FILE}")
    for name, (digest, size) in files.items():
        _check_file(directory, name, digest, size)
    return hashlib.sha256(data).hexdigest()[:12]


def _parse(data: bytes) -> dict[str, tuple[str, int]]:
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise BundleError(f"{MANIFEST_FILE}: format {content['format']!r} is not {FORMAT}; export the model again")
        return {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_FILE}: malformed: {type(error).__name__}: {error}") from None


def _check_file(directory: Path, name: str, digest: str, size: int) -> None:
    if not _PLAIN_PATH.fullmatch(name):
        raise BundleError(f"{MANIFEST_FILE}: {name!r} is not a plain relative path")
    path = directory / name
    if not path.is_file():
        raise BundleError(f"{name}: listed in {MANIFEST_FILE} but missing")
    if not path.resolve().is_relative_to(directory.resolve()):
        raise BundleError(f"{name}: leads outside the bundle")
    actual = path.stat().st_size
    if actual != size:
        raise BundleError(f"{name}: {actual} bytes where {MANIFEST_FILE} says {size}: truncated or replaced")
    if _sha256(path) != digest:
        raise BundleError(f"{name}: content does not match its SHA-256 in {MANIFEST_FILE}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read: {os.strerror(error.errno or 0)}") from None
    return digest.hexdigest()
