"""Loading checkpoint directories in tests, and damaging them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqserve_export.errors import ExportError
from seqserve_export.families import LoadedCheckpoint, choose_family


def load(directory: Path, family: str = "auto") -> LoadedCheckpoint:
    return choose_family(directory, family).read(directory)


def refusal(directory: Path, family: str = "auto") -> str:
    with pytest.raises(ExportError) as caught:
        load(directory, family)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**values, **changes}.items() if value is not ...}))


def change_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(directory / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors")
