"""Weights in several files, as transformers saves large models: an index names the file of every tensor."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from seqserve.bundle import BundleError
from seqserve.whole_files import read_object
from seqserve_export.errors import ExportError

INDEX_SUFFIX = ".index.json"
SHOWN = 5  # names in one message
LONGEST_NAME = 255  # bytes; what file systems allow
_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.(safetensors|bin)")


def is_index(file: Path) -> bool:
    """Whether a weights file is an index of several."""
    return file.name.endswith(INDEX_SUFFIX)


def is_shard(file: Path) -> bool:
    """Whether a file is named like one of several."""
    match = _SHARD.fullmatch(file.name)
    return match is not None and int(match[1]) > 1


def shards_of(index: Path) -> dict[Path, frozenset[str]]:
    """The files that an index names, all of them there, with the tensors of each.

    Raises:
        ExportError: a malformed index, a name that is not one of a file of its directory and format, or missing files.
    """
    try:
        mapped = read_object(index, str(index)).get("weight_map")
    except BundleError as error:
        raise ExportError(str(error)) from None
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(name, str) for name in mapped.values()):
        raise ExportError(f"{index}: weight_map is not an object of file names")
    format_suffix = Path(index.name.removesuffix(INDEX_SUFFIX)).suffix
    shards: dict[str, set[str]] = {}
    for tensor, name in mapped.items():
        shards.setdefault(name, set()).add(tensor)
    for name in shards:
        if not _is_beside(name, format_suffix):
            raise ExportError(f"{index}: weight_map: {name!r:.80} is not the name of a {format_suffix} file beside it")
    if missing := sorted(name for name in shards if not (index.parent / name).is_file()):
        raise ExportError(f"{index}: names {len(shards)} files; not there: {_some(missing)}")
    return {index.parent / name: frozenset(tensors) for name, tensors in sorted(shards.items())}


def read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files by name.

    Args:
        read: Reads one file.

    Raises:
        ExportError: naming the file, and tensors that it lacks or that the index does not expect in it.
    """
    tensors: dict[str, Tensor] = {}
    for file, expected in shards_of(index).items():
        found = read(file)
        if missing := sorted(expected - found.keys()):
            raise ExportError(f"{file}: no {_some(missing)}, which {index.name} says is there")
        if extra := sorted(found.keys() - expected):
            # Of a tensor in two files nothing but the index would tell which one counts.
            raise ExportError(f"{file}: holds {_some(extra)}, which {index.name} does not say is there")
        tensors |= found
    return tensors


def _is_beside(name: str, suffix: str) -> bool:
    """Whether a name is one of the directory's own files, on any system, and is not read otherwise than its index."""
    return (
        name == Path(name).name and "\\" not in name and ":" not in name and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME and Path(name).suffix == suffix
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
