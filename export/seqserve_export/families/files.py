"""Reading the files of a checkpoint directory, none of which is trusted to be whole or well-formed."""

import hashlib
import json
import pickle
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
    try:
        refuse_pointer(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path}: not a readable weights file: {reason}") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ExportError(f"{path}: not a plain dictionary of tensors")
    return tensors


def refuse_pointer(path: Path) -> None:
    """Say so where a file is not itself but what Git stores in its place: a clone without Git LFS is full of these.

    Raises:
        ExportError: it is a Git LFS pointer.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ExportError(f"{path}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def digests(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of every file that exists, by file name."""
    return {path.name: _sha256(path) for path in paths if path.is_file()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
