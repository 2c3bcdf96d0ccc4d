"""Stored tensors into the canonical model: every one used, every parameter filled, shapes and values checked."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seqserve_export.errors import ExportError
from seqserve_export.families.files import CONFIG_FILE
from seqserve_export.model import Transformer

SHOWN = 5  # names in one message


def stored_names(model: Transformer) -> list[str]:
    """Names of the model's parameters, each shared tensor once: under its first owner's name.

    ``source_embedding.tokens.weight`` stands for the target's embedding too when embeddings are shared, and the
    embedding for ``output.weight`` when the output is tied.
    """
    dropped = set()
    if model.config.shared_embeddings:
        dropped.add("target_embedding.tokens.weight")
    if model.config.tied_output:
        dropped.add("output.weight")
    return [name for name in model.state_dict() if name not in dropped]


def check(
    model: Transformer, tensors: Mapping[str, Tensor], names: Mapping[str, str], file: Path, *,
    settings: str = CONFIG_FILE,
) -> None:
    """Whether the tensors are those of the model; reads no values, so that the model may be one without memory.

    Args:
        tensors: the file's tensors by the file's names.
        names: the file's name of every parameter in ``stored_names(model)``.
        file: the weights file, for messages.
        settings: what the model's configuration comes from, for messages.

    Raises:
        ExportError: tensors missing or left over, or shapes that disagree with the configuration.
    """
    if missing := sorted(set(names.values()) - set(tensors)):
        raise ExportError(f"{file}: {_some(missing, 'tensor')} missing")
    if extra := sorted(set(tensors) - set(names.values())):
        raise ExportError(f"{file}: {_some(extra, 'tensor')} not known to this architecture")
    state = model.state_dict()
    wrong = [
        f"{theirs} is {list(tensors[theirs].shape)} where {settings} makes it {list(state[ours].shape)}"
        for ours, theirs in names.items() if tensors[theirs].shape != state[ours].shape
    ]
    if wrong:
        rest = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ExportError(f"{file}: shapes disagree with {settings}: {'; '.join(wrong[:SHOWN])}{rest}")


def fill(model: Transformer, tensors: Mapping[str, Tensor], names: Mapping[str, str], file: Path) -> None:
    """Make tensors the model's parameters: not copies, so that what is mapped from a file stays there.

    Arguments are those of ``check``, which comes first.

    Raises:
        ExportError: tensors missing or left over, shapes that disagree with the configuration, values not finite.
    """
    check(model, tensors, names, file)
    if bad := [theirs for theirs in names.values() if not _finite(tensors[theirs])]:
        raise ExportError(f"{file}: {_some(bad, 'tensor')} not finite (NaN or infinite values)")
    for ours, theirs in names.items():
        path, _, leaf = ours.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(tensors[theirs].float(), requires_grad=False))
    model.tie()


def _finite(tensor: Tensor) -> bool:
    """By the extremes, which NaN wins: ``torch.isfinite`` would take the tensor's memory once more."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def freeze(model: Transformer) -> Transformer:
    """The model as the exporter wants it: eval mode, nothing to train."""
    return model.eval().requires_grad_(False)


def _some(names: list[str], noun: str) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{rest}"
