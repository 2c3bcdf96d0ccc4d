"""Stored tensors into the canonical model: every one used, every parameter filled, shapes and values checked."""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from seqserve_export.errors import ExportError
from seqserve_export.families.files import CONFIG_FILE
from seqserve_export.model import CanonicalModel

Model = TypeVar("Model", bound=CanonicalModel)

SHOWN = 5  # names in one message
REST = "the rest of the file"  # where a family reads sizes from shapes, and no settings say them
# A suppressed token's logit. Large enough to absorb any real logit in float32 (its spacing there is 65536), so that
# every runtime computes the same value; finite, because -inf turns into NaN wherever it meets a factor of zero.
SUPPRESSED = -1e12
# Number formats of stored weights, with whether float32 holds all of their values.
FORMATS = {torch.float32: True, torch.float16: True, torch.bfloat16: True, torch.float64: False}


def stored_names(model: CanonicalModel) -> list[str]:
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
    model: CanonicalModel, tensors: Mapping[str, Tensor], names: Mapping[str, str], file: Path, *,
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
    if odd := [theirs for theirs in names.values() if tensors[theirs].dtype not in FORMATS]:
        stored, formats = _format(tensors[odd[0]].dtype), ", ".join(map(_format, FORMATS))
        raise ExportError(f"{file}: {_some(odd, 'tensor')} stored as {stored}, not as {formats}")
    state = model.state_dict()
    wrong = [
        f"{theirs} is {list(tensors[theirs].shape)} where {settings} makes it {list(state[ours].shape)}"
        for ours, theirs in names.items() if tensors[theirs].shape != state[ours].shape
    ]
    if wrong:
        rest = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ExportError(f"{file}: shapes disagree with {settings}: {'; '.join(wrong[:SHOWN])}{rest}")


def fill(
    model: CanonicalModel, tensors: Mapping[str, Tensor], names: Mapping[str, str], file: Path, *,
    settings: str = CONFIG_FILE,
) -> None:
    """Make tensors the model's parameters: not copies, so that what is mapped from a file stays there.

    Arguments are those of ``check``, which comes first.

    Raises:
        ExportError: tensors missing or left over, shapes that disagree with the configuration, values not finite.
    """
    check(model, tensors, names, file, settings=settings)
    bad = []
    for ours, theirs in names.items():
        path, _, leaf = ours.rpartition(".")
        values = tensors[theirs].float()
        if not _finite(values):
            bad.append(theirs)
        setattr(model.get_submodule(path), leaf, nn.Parameter(values, requires_grad=False))
    if bad:
        raise ExportError(f"{file}: {_some(bad, 'tensor')} not finite in float32 (NaN or infinite values)")
    model.tie()


def matrix(tensors: Mapping[str, Tensor], name: str, file: Path, model: str) -> Tensor:
    """A tensor of two axes, whose shape says sizes of the model.

    Args:
        file: the weights file, for messages.
        model: whose tensors they should be, for messages.

    Raises:
        ExportError: it is not there, or has more or fewer axes.
    """
    if name not in tensors:
        raise ExportError(f"{file}: no {name}: not the state dictionary of {model}")
    if tensors[name].ndim != 2:
        raise ExportError(f"{file}: {name} is {list(tensors[name].shape)}, not a matrix")
    return tensors[name]


def format_notes(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """``format_note`` of tensors as they are stored."""
    return format_note({tensor.dtype for tensor in tensors.values()})


def format_note(stored: Set[torch.dtype]) -> tuple[str, ...]:
    """One line where weights are stored in another format than the bundle's; of several, the one that loses most."""
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        if dtype in stored:
            how = "are taken exactly" if FORMATS[dtype] else "are rounded"
            return (f"weights are stored as {_format(dtype)}; in the bundle they {how} as float32",)
    return ()


def name_shared(tensors: dict[str, Tensor], name: str, others: Iterable[str]) -> None:
    """Make sure of a shared tensor's own name: writers that store tied weights once are free to keep any of them."""
    kept = next((other for other in others if other in tensors), None)
    if name not in tensors and kept is not None:
        tensors[name] = tensors[kept]


def suppress(bias: Tensor, tokens: frozenset[int], where: str) -> Tensor:
    """An output bias [vocabulary] that lets generation never choose these tokens.

    Raises:
        ExportError: naming ``where`` the tokens are listed, and those that the vocabulary lacks.
    """
    if bad := [token for token in sorted(tokens) if not 0 <= token < len(bias)]:
        raise ExportError(f"{where}: bad_words_ids, suppress_tokens: {bad!s:.80} outside the vocabulary of {len(bias)}")
    bias = bias.float().clone()
    bias[sorted(tokens)] = SUPPRESSED
    return bias


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or have the same format, shape and values."""
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other))


def _finite(tensor: Tensor) -> bool:
    """By the extremes, which NaN wins: ``torch.isfinite`` would take the tensor's memory once more."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def freeze(model: Model) -> Model:
    """The model as the exporter wants it: eval mode, nothing to train."""
    return model.eval().requires_grad_(False)


def _format(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _some(names: list[str], noun: str) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{rest}"
