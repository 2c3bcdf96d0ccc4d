"""CTranslate2's ``model.bin``: named variables after a short header, read without trusting any length in it.

Little-endian. A string is a uint16 length, the final NUL counted, and its bytes.

    uint32   binary version
    string   name of the specification
    uint32   revision of the specification
    uint32   number of variables; for each:
                 string, uint8 rank, uint32 sizes[rank]
                 versions 2, 3:  uint8 item size,  uint32 items
                 versions 4-6:   uint8 type,       uint32 bytes
                 the values, row by row
    uint32   number of aliases (from version 3); for each: string alias, string variable

Only versions before 4 say nothing of the type: 4 bytes are float32, 2 int16, 1 int8.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families.files import refuse_lfs_pointer

VERSIONS = range(2, 7)
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
STORED = {"float32": "<f4", "int8": "i1", "int16": "<i2", "int32": "<i4", "float16": "<f2", "bfloat16": "<u2"}
TYPE_OF_SIZE = {4: "float32", 2: "int16", 1: "int8"}
MAX_RANK = 8
MAX_NAME = 512
INT16_SCALE = 1000.0  # of int16 weights from before the scale was stored
# What an alias of a quantised variable brings with it.
COMPANIONS = ("", "_scale", "_zero")


@dataclass(frozen=True, eq=False)
class Variable:
    """One stored array: a view of the file, and the type that its values have.

    ``values`` is uint16 where the type is bfloat16, which numpy does not have. Two names of one variable (aliases)
    are the same object.
    """

    values: NDArray[Any]
    type: str


@dataclass(frozen=True)
class ModelFile:
    """A parsed ``model.bin``; ``variables`` holds the aliases too."""

    path: Path
    version: int
    spec: str
    revision: int
    variables: dict[str, Variable]

    def tensor(self, name: str) -> Tensor:
        """A variable as float32, of its own shape: quantised values are divided by their scale, whole or by row.

        Raises:
            ExportError: an integer variable without a scale, or a scale that does not fit.
        """
        variable = self.variables[name]
        values = variable.values
        if variable.type == "bfloat16":
            values = _bfloat16(values)
        elif variable.type in ("int8", "int16"):
            with np.errstate(all="ignore"):  # a scale of zero makes values that are not finite, which is told later
                values = values.astype(np.float32) / self._scale(name)
        elif variable.type == "int32":
            raise ExportError(f"{self.path}: {name}: int32 values where weights are expected")
        # Variables lie where their names end; torch wants them aligned.
        return torch.from_numpy(np.require(values, np.float32, ["C", "A", "W"]))

    def number(self, name: str) -> float | None:
        """The value of a variable with one value, or None where there is no such variable.

        Raises:
            ExportError: it has more than one value, or one that is not finite.
        """
        if name not in self.variables:
            return None
        variable = self.variables[name]
        values = _bfloat16(variable.values) if variable.type == "bfloat16" else variable.values
        if values.size != 1:
            raise ExportError(f"{self.path}: {name} has shape {list(values.shape)} where one value is expected")
        value = float(values.reshape(-1)[0])
        if not math.isfinite(value):
            raise ExportError(f"{self.path}: {name} is {value}")
        return value

    def text(self, name: str) -> str | None:
        """The value of a variable that holds a string, or None where there is no such variable.

        Raises:
            ExportError: not UTF-8.
        """
        if name not in self.variables:
            return None
        try:
            return self.variables[name].values.tobytes().decode("utf-8")
        except UnicodeDecodeError:
            raise ExportError(f"{self.path}: {name} is not UTF-8") from None

    def _scale(self, name: str) -> NDArray[np.float32]:
        variable = self.variables[name]
        stored = self.variables.get(f"{name}_scale")
        if stored is None:
            if variable.type == "int16":
                return np.array(INT16_SCALE, dtype=np.float32)
            raise ExportError(f"{self.path}: {name}: {variable.type} values without {name}_scale")
        scale = self.tensor(f"{name}_scale").numpy().reshape(-1)
        rows = variable.values.shape[0] if variable.values.ndim else 1
        if scale.size not in (1, rows):
            raise ExportError(f"{self.path}: {name}_scale has {scale.size} values for {rows} rows")
        by_row: NDArray[np.float32] = scale.reshape((scale.size, *[1] * (variable.values.ndim - 1)))
        return by_row if variable.values.ndim else scale[0]


def _bfloat16(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The upper halves of float32 values as such."""
    return (values.astype(np.uint32) << 16).view(np.float32)


class _Reader:
    """A place in the file's bytes. Every read is checked against what is left before anything is made of it."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path, self.data, self.offset = path, data, 0

    def take(self, count: int, what: str) -> NDArray[np.uint8]:
        """The next ``count`` bytes, as a view."""
        left = len(self.data) - self.offset
        if count > left:
            raise ExportError(
                f"{self.path}: truncated or damaged: {what} at offset {self.offset} needs {count} bytes, "
                f"{left} are left"
            )
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def integer(self, size: int, what: str) -> int:
        """An unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size, what).tobytes(), "little")

    def string(self, what: str) -> str:
        """A name, up to its first NUL."""
        start = self.offset
        text = self.take(self.integer(2, f"the length of {what}"), what).tobytes().split(b"\0", 1)[0]
        name = text.decode("ascii", errors="replace")
        if not (name.isascii() and name.isprintable() and len(name) <= MAX_NAME):  # it will stand in messages
            raise ExportError(
                f"{self.path}: damaged: {what} at offset {start} is not up to {MAX_NAME} printable characters"
            )
        return name


def looks_like_model(path: Path) -> bool:
    """Whether the header of a file is one of CTranslate2's, of any version."""
    with open(path, "rb") as file:
        head = file.read(64)
    if len(head) < 8 or not 1 <= int.from_bytes(head[:4], "little") <= 255:
        return False
    name = head[6 : 6 + int.from_bytes(head[4:6], "little")]
    return name.endswith(b"\0") and name[:-1].isalnum()


def read_model(path: Path) -> ModelFile:
    """Parse a ``model.bin``. The file is mapped, not read: weights are copied once, when they are asked for.

    Raises:
        ExportError: no such file, a version that is not known, or lengths that disagree with the file.
    """
    try:
        refuse_lfs_pointer(path)
        # Copy on write: torch refuses memory that it may not write to. Nothing here writes.
        empty = not path.stat().st_size
        data = np.empty(0, np.uint8) if empty else np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from None
    reader = _Reader(path, data)
    version = reader.integer(4, "the binary version")
    if version not in VERSIONS:
        raise ExportError(
            f"{path}: binary version {version} is not supported; supported: {VERSIONS[0]} to {VERSIONS[-1]}"
        )
    spec, revision = reader.string("the name of the specification"), reader.integer(4, "the revision")
    variables: dict[str, Variable] = {}
    for index in range(reader.integer(4, "the number of variables")):
        name = reader.string(f"the name of variable {index}")
        if name in variables:
            raise ExportError(f"{path}: variable {name} is there twice")
        variables[name] = _read_variable(reader, name, version)
    if version >= 3:
        _read_aliases(reader, variables)
    return ModelFile(path, version, spec, revision, variables)


def _read_variable(reader: _Reader, name: str, version: int) -> Variable:
    rank = reader.integer(1, f"the rank of {name}")
    if rank > MAX_RANK:
        raise ExportError(f"{reader.path}: {name}: rank {rank}, {MAX_RANK} at most")
    shape = tuple(reader.integer(4, f"the shape of {name}") for _ in range(rank))
    code = reader.integer(1, f"the type of {name}")
    kind = (TYPE_OF_SIZE if version < 4 else dict(enumerate(TYPES))).get(code)
    if kind is None:
        raise ExportError(f"{reader.path}: {name}: unknown type {code}")
    item = np.dtype(STORED[kind]).itemsize
    stored = reader.integer(4, f"the size of {name}") * (item if version < 4 else 1)
    needed = math.prod(shape) * item  # whole numbers of any size: sizes that overflow elsewhere are caught here
    if stored != needed:
        raise ExportError(
            f"{reader.path}: {name}: {kind} of shape {list(shape)} is {needed} bytes, {stored} are stored"
        )
    return Variable(reader.take(stored, name).view(STORED[kind]).reshape(shape), kind)


def _read_aliases(reader: _Reader, variables: dict[str, Variable]) -> None:
    """Add every alias, with its scale. One of nothing is passed over, as CTranslate2 does; its user will miss it."""
    for index in range(reader.integer(4, "the number of aliases")):
        alias, name = reader.string(f"alias {index}"), reader.string(f"what alias {index} stands for")
        for suffix in COMPANIONS:
            if name + suffix in variables:
                variables.setdefault(alias + suffix, variables[name + suffix])
