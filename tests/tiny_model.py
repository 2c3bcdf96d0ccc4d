"""Random small models: the canonical one in any configuration, and a Marian directory written without transformers."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from seqserve_export.families.bart_layout import SHARED, SOURCE, TARGET, tensor_names
from seqserve_export.families.native import save_native
from seqserve_export.model import Transformer, TransformerConfig

PAD, EOS, START = 0, 1, 2

torch.set_num_threads(1)  # so small that a second thread is waited for longer than it helps


def tiny_config(**changes: Any) -> TransformerConfig:
    """Two layers each side, width 32, 50 tokens; ``changes`` replace fields."""
    values: dict[str, Any] = {
        "source_vocab_size": 50, "target_vocab_size": 50, "width": 32, "heads": 4, "head_size": 8, "ffn_width": 48,
        "encoder_layers": 2, "decoder_layers": 2, "max_source_length": 64, "max_target_length": 64,
        "pad_id": PAD, "eos_id": EOS, "decoder_start_id": START,
    }
    return TransformerConfig(**{**values, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> Transformer:
    """A model with every parameter random: norms and biases too, so that none can be swapped or left out unseen."""
    model = Transformer(tiny_config(**changes)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        tensor.copy_(_random(name, tensor.shape, generator))
    model.output.weight[EOS] *= 1.5  # so that some sentences end by themselves
    return model


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random weights, wide enough for varied outputs: with the usual small ones a random model repeats one token."""
    values: Tensor = torch.randn(shape, generator=generator)
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.2 * values
    if len(shape) == 1:
        return 0.1 * values
    if name.endswith(("tokens.weight", "positions")) or "_bias" in name:
        return 2.0 * values
    # Sharp attention picks different tokens; a strong feed-forward part would add the same vector everywhere.
    factor = 3.0 if ".query." in name else 0.4 if ".ffn." in name else 1.0
    return values * (factor / math.sqrt(shape[-1]))


def write_native(directory: Path, seed: int = 0, tokenizer: Path | None = None, **changes: Any) -> Transformer:
    """A native checkpoint of a random model in a new directory."""
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(seed, **changes)
    save_native(model, directory, tokenizer)
    return model


def marian_config(**changes: Any) -> dict[str, Any]:
    """Marian's config.json of a small model, with the keys that transformers writes."""
    return {
        "architectures": ["MarianMTModel"], "model_type": "marian", "activation_function": "swish", "d_model": 32,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "vocab_size": 50,
        "decoder_vocab_size": 50, "pad_token_id": 49, "decoder_start_token_id": 49, "eos_token_id": 0,
        "forced_eos_token_id": 0, "scale_embedding": True, "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True, **changes,
    }


def marian_tensors(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of ``MarianMTModel.save_pretrained``, tied ones once."""
    values = marian_config(**changes)
    tied = values["tie_word_embeddings"]
    shared = values["share_encoder_decoder_embeddings"] and tied
    config = tiny_config(
        source_vocab_size=values["vocab_size"], target_vocab_size=values["decoder_vocab_size"], width=values["d_model"],
        heads=values["encoder_attention_heads"], head_size=values["d_model"] // values["encoder_attention_heads"],
        ffn_width=values["encoder_ffn_dim"], encoder_layers=values["encoder_layers"],
        decoder_layers=values["decoder_layers"], shared_embeddings=shared, tied_output=tied, output_bias=True,
    )
    state = Transformer(config).state_dict()
    generator = torch.Generator().manual_seed(seed)
    tensors = {theirs: _random(ours, state[ours].shape, generator) for ours, theirs in tensor_names(config).items()}
    if values["scale_embedding"]:
        # The model multiplies by sqrt(width): attention too sharp would magnify float32 rounding beyond the tolerance.
        for name in tensors.keys() & {SHARED, SOURCE, TARGET}:
            tensors[name] /= math.sqrt(values["d_model"])
    tensors["final_logits_bias"] = tensors["final_logits_bias"][None]
    return tensors


def write_marian(
    directory: Path, seed: int = 0, generation: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Tensor]:
    """A Marian directory as transformers writes it; returns its tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = marian_tensors(seed, **changes)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(marian_config(**changes)))
    if generation is None:
        generation = {
            "bad_words_ids": [[49]], "decoder_start_token_id": 49, "eos_token_id": 0, "forced_eos_token_id": 0,
            "max_length": 33, "pad_token_id": 49,
        }
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return tensors
