"""Random small recurrent models, and their bundles without proof."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from seqserve.bundle import MODEL_FILE
from seqserve.manifest import write_manifest
from seqserve_export import pipeline
from seqserve_export.description import describe
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq
from tiny_model import EOS, PAD, START

# Together these take every branch of the graphs. Tracing costs seconds whatever the size, so there are few.
RECURRENT: dict[str, dict[str, Any]] = {
    "Bahdanau": {"attention_width": 20},
    "Luong, general, predictive, fed, bidirectional": {
        "wiring": "luong", "score": "general", "window": "predictive", "input_feeding": True, "bidirectional": True,
        "half_window": 3, "decoder_layers": 1, "target_vocab_size": 61, "output_bias": False,
    },
    "Luong, dot, monotonic, padded": {
        "wiring": "luong", "score": "dot", "window": "monotonic", "scaled": True, "half_window": 4,
        "padded_source_length": 10, "source_pad_id": 3, "encoder_layers": 1, "decoder_layers": 1,
        "shared_embeddings": True,
    },
}


def recurrent_config(**changes: Any) -> RecurrentConfig:
    """Two layers each side, 32 wide, 50 tokens; ``changes`` replace fields."""
    values: dict[str, Any] = {
        "source_vocab_size": 50, "target_vocab_size": 50, "embedding_width": 24, "hidden_width": 32,
        "encoder_layers": 2, "decoder_layers": 2, "max_source_length": 64, "max_target_length": 64,
        "pad_id": PAD, "eos_id": EOS, "decoder_start_id": START, "attention_width": 16,
    }
    return RecurrentConfig(**{**values, **changes})


def recurrent_model(seed: int = 0, **changes: Any) -> RecurrentSeq2Seq:
    """A model with every parameter random, wide enough for varied outputs."""
    model = RecurrentSeq2Seq(recurrent_config(**changes)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        values = torch.randn(tensor.shape, generator=generator)
        if len(tensor.shape) == 1:
            tensor.copy_(0.1 * values)
        elif name.endswith("tokens.weight"):
            tensor.copy_(2.0 * values)
        else:
            factor = 2.5 if name.startswith(("attention", "output")) else 1.2
            tensor.copy_(values * (factor / math.sqrt(tensor.shape[-1])))
    model.output.weight[EOS] *= 1.3  # so that some sentences end by themselves
    return model


class RecurrentBuilt:
    """The model, and the directory of what was made of it."""

    def __init__(self, directory: Path, changes: dict[str, Any], *, scorer: bool = True) -> None:
        self.model = recurrent_model(**changes)
        checkpoint = LoadedCheckpoint(
            family="native", model=self.model, source_prefix=(), source_suffix=(EOS,), unk_id=None,
            default_max_new_tokens=20,
        )
        description = describe(checkpoint, "recurrent", "fp32")
        self.description = description if scorer else dataclasses.replace(description, alignment=None)
        self.bundle = directory
        directory.mkdir(parents=True)
        pipeline.write_graphs(self.model, directory, self.description.alignment)
        (directory / MODEL_FILE).write_text(self.description.to_json())
        write_manifest(directory)
