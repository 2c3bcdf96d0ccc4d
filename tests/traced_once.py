"""Tracing takes seconds however small a model is, and many tests trace the same ones: within a run each once.

A graph is looked up by everything that its trace can depend on: the modules with their settings and weights, example
inputs and options, and the code of the exporter as it is in memory, so that a fault which a test plants is traced.
What holds anything else is traced each time. Whoever traces first gets what the exporter returned, not what was kept.
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn

from built_once import built_once
from seqserve_export import graphs, model

MODULE = frozenset(vars(nn.Module()))  # what every module has
ATOMS = (bool, int, float, str, bytes, type(None))
EXPORT = torch.onnx.export


class Unknown(Exception):
    """A value of which nobody knows whether two of them are the same."""


@dataclass
class Program:
    """What is used of a ``torch.onnx.ONNXProgram``."""

    model: onnx_ir.Model


def trace_once(directory: Path) -> None:
    """From here on ``torch.onnx.export`` keeps what it made in the directory, and looks there first."""

    def export(graph: nn.Module, inputs: tuple[Any, ...], **options: Any) -> Any:
        try:
            key = hashlib.sha256(repr([*_module(graph), *_parts((inputs, options)), *_code()]).encode()).hexdigest()
        except Unknown:
            return EXPORT(graph, inputs, **options)
        made: list[Any] = []

        def make(place: Path) -> None:
            made.append(EXPORT(graph, inputs, **options))
            onnx_ir.save(made[0].model, place / "graph.onnx")

        place = built_once(directory / key, make)
        return made[0] if made else Program(onnx_ir.load(place / "graph.onnx"))

    torch.onnx.export = export  # type: ignore[assignment]


def _module(graph: nn.Module) -> Iterator[object]:
    tensors: dict[int, int] = {}  # one that is there twice is not two with the same values
    for name, module in graph.named_modules(remove_duplicate=False):
        yield name, type(module).__qualname__, module.training
        yield from _parts({key: value for key, value in vars(module).items() if key not in MODULE})
        for kind in (module._parameters, module._buffers):
            for key, tensor in kind.items():
                yield key, None if tensor is None else tensors.setdefault(id(tensor), len(tensors))
                yield from _parts(tensor)


def _parts(value: Any) -> Iterator[object]:
    if isinstance(value, ATOMS):
        yield value
    elif isinstance(value, Tensor):
        values = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield value.dtype, tuple(value.shape), hashlib.sha256(values).digest()
    elif isinstance(value, list | tuple):
        yield len(value)
        for each in value:
            yield from _parts(each)
    elif isinstance(value, dict):
        yield from _parts(list(value.items()))
    elif " at 0x" not in repr(value):  # settings, and sizes of torch.export: not told by where they are in memory
        yield repr(value)
    else:
        raise Unknown


def _code() -> Iterator[object]:
    """Functions and constants of the exporter's modules: all of them, since which are loaded depends on who asks."""
    for package in (graphs, model):
        for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield entry.name
            yield from _members(vars(importlib.import_module(entry.name)), entry.name)


def _members(members: Any, module: str) -> Iterator[object]:
    for name, value in members.items():
        if isinstance(value, FunctionType):
            yield name
            yield from _instructions(value.__code__)
        elif isinstance(value, type) and value.__module__ == module:
            yield from _members(vars(value), "")
        elif isinstance(value, ATOMS):
            yield name, value


def _instructions(code: CodeType) -> Iterator[object]:
    """Not as ``marshal`` writes them, which depends on who refers to a constant at the moment."""
    yield code.co_code, code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        else:
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
