"""Reading the files of a checkpoint directory, none of which is trusted to be whole or well-formed."""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqserve_export.errors import ExportError

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ExportError(f"{path}: not a JSON object")
    return values


def weights_file(directory: Path, *, pickled: bool, pickle_file: str = PICKLE_FILE) -> Path:
    """The one file with weights. ``pickled`` also allows ``pickle_file``, where there is no safetensors file."""
    if (directory / SAFETENSORS_FILE).is_file():
        return directory / SAFETENSORS_FILE
    if pickled and (directory / pickle_file).is_file():
        return directory / pickle_file
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(others) == 1:
        return directory / others[0]
    if others:
        raise ExportError(
            f"{directory}: several candidates for the weights: {', '.join(others[:5])}; "
            f"name the one to export {SAFETENSORS_FILE}"
        )
    raise ExportError(f"{directory}: no weights here ({SAFETENSORS_FILE}{f' or {pickle_file}' if pickled else ''})")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Pickled files are read with ``weights_only``, so that they cannot run code."""
    refuse_lfs_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped, not read, where the file is of PyTorch's zip format: values are then paged in when they are used.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path}: not a readable weights file: {reason}") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ExportError(f"{path}: not a plain dictionary of tensors")
    return tensors


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the few lines that a clone without Git LFS has in place of a large file.

    Raises:
        ExportError: saying so, or that the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(len(LFS_POINTER))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from None
    if begin == LFS_POINTER:
        raise ExportError(f"{path}: a Git LFS pointer of {path.stat().st_size} bytes, not the file; run `git lfs pull`")


def check_sha256(path: Path, wanted: str) -> None:
    """Refuse a file other than the one that was asked for, before anything of it is used.

    Raises:
        ExportError: naming both digests.
    """
    refuse_lfs_pointer(path)
    found = _sha256(path)
    if found != wanted.lower():
        raise ExportError(f"{path}: SHA-256 {found} is not --sha256 {wanted.lower()}")


def digests(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of every file that exists, by file name."""
    return {path.name: _sha256(path) for path in paths if path.is_file()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
