"""Reading the files of a checkpoint directory, none of which is trusted to be whole or well-formed."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from seqserve.bundle import BundleError
from seqserve.whole_files import LFS_POINTER, lfs_pointer, read_object
from seqserve_export.errors import ExportError
from seqserve_export.families.shards import INDEX_SUFFIX, is_index, is_shard, read_shards, shards_of

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"


def config_file(directory: Path) -> Path:
    """The directory's config.json, which has to be there."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ExportError(f"{directory}: no model here (no {CONFIG_FILE})")
    return path


def has_model_type(directory: Path, *model_types: str) -> bool:
    """Whether there is a config.json with one of these values of ``model_type``."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") in model_types


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        return read_object(path, str(path))
    except BundleError as error:
        raise ExportError(str(error)) from None


def weights_file(directory: Path, pickle_file: str | None = PICKLE_FILE) -> Path:
    """The one file with weights, or the index of several, in transformers' order.

    Args:
        pickle_file: Taken where there are no safetensors files of the usual names; None: no pickle is.

    Raises:
        ExportError: there is none, or several of which none has a usual name.
    """
    usual = (SAFETENSORS_FILE, *([] if pickle_file is None else [pickle_file]))
    for name in [each for file in usual for each in (file, file + INDEX_SUFFIX)]:
        if (directory / name).is_file():
            return directory / name
    others = sorted(directory.glob("*.safetensors"))
    if shards := [path.name for path in (*others, *directory.glob("*.bin")) if is_shard(path)]:
        raise ExportError(f"{directory}: {shards[0]} is one of several files, whose index is missing (*{INDEX_SUFFIX})")
    if len(others) == 1:
        return others[0]
    if others:
        raise ExportError(
            f"{directory}: several candidates for the weights: {', '.join(path.name for path in others[:5])}; "
            f"name the one to export {SAFETENSORS_FILE}"
        )
    raise ExportError(f"{directory}: no weights here ({' or '.join(usual)})")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of one file or of all that an index names. Pickled files are read with ``weights_only``, so
    that they cannot run code.
    """
    return read_shards(path, _read_file) if is_index(path) else _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    refuse_lfs_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped, not read, where the file is of PyTorch's zip format: values are then paged in when they are used.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # noqa: BLE001 - of damaged bytes, the unpickler raises whatever they lead it to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path}: not a readable weights file: {reason}") from None
    if not isinstance(tensors, dict) or not all(_is_plain(name, tensor) for name, tensor in tensors.items()):
        raise ExportError(f"{path}: not a plain dictionary of tensors")
    return tensors


def _is_plain(name: object, tensor: object) -> bool:
    """Whether this is a named tensor that stores every one of its values: a view may repeat a few without end."""
    return (
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided
        and tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


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
        raise ExportError(f"{path}: {lfs_pointer(path.stat().st_size)}")


def check_sha256(path: Path, wanted: str) -> None:
    """Refuse a file other than the one that was asked for, before anything of it is used.

    Raises:
        ExportError: naming both digests, or that there are several files.
    """
    if is_index(path):
        raise ExportError(
            f"--sha256: the weights are {len(shards_of(path))} files, named by {path.name}, and one digest does not "
            "cover them; leave it out and compare source_files of the bundle's provenance"
        )
    refuse_lfs_pointer(path)
    found = _sha256(path)
    if found != wanted.lower():
        raise ExportError(f"{path}: SHA-256 {found} is not --sha256 {wanted.lower()}")


def digests(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of every file that exists, by file name; of an index the files that it names too."""
    present = [path for path in paths if path.is_file()]
    shards = [shard for path in present if is_index(path) for shard in shards_of(path)]
    return {path.name: _sha256(path) for path in (*present, *shards)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
