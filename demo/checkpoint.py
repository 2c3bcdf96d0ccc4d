"""Writing and averaging ``native`` checkpoints: config.json and model.safetensors."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seqserve_export.model import CanonicalConfig


def stored_weights(model: nn.Module, config: CanonicalConfig) -> dict[str, Tensor]:
    """The state of the model with each shared tensor once, under the name that the native family keeps."""
    weights = dict(model.state_dict())
    if config.shared_embeddings:
        del weights["target_embedding.tokens.weight"]
    if config.tied_output:
        del weights["output.weight"]
    return {name: tensor.detach().float().contiguous() for name, tensor in weights.items()}


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file through a neighbour, so that an interrupted run leaves no half file."""
    partial = path.with_suffix(".partial")
    save_file(weights, partial, metadata={"format": "seqserve-native"})
    partial.replace(path)


def write_config(config: CanonicalConfig, path: Path) -> None:
    """Write config.json."""
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load stored weights; names that are missing must be those of shared tensors.

    Raises:
        ValueError: naming the parameters that the file has too many or too few of.
    """
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = sorted(set(missing) - {"target_embedding.tokens.weight", "output.weight"}) + list(unexpected)
    if wrong:
        raise ValueError(f"weights do not fit the model: {', '.join(wrong)}")


def average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of the weights of several checkpoints of one run, summed in float64."""
    total: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in load_file(path).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).to(torch.float32) for name, tensor in total.items()}
