"""Makes the models of ``gpu.py``. Apart, because it needs all that an export needs, and models once made do not."""

import dataclasses
import math
import shutil
from pathlib import Path

import torch

from gpu_models import DEMO, Bundles
from seqserve.manifest import write_manifest
from seqserve_export.description import describe
from seqserve_export.families import choose_family
from seqserve_export.families.native import save_native
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.pipeline import write_graphs
from seqserve_export.precision import EMULATION, write_rounded

MARIAN = TransformerConfig(
    source_vocab_size=32000, target_vocab_size=32000, width=512, heads=8, head_size=64, ffn_width=2048,
    encoder_layers=6, decoder_layers=6, max_source_length=512, max_target_length=512, pad_id=31999, eos_id=0,
    decoder_start_id=31999, activation="silu", embedding_scale=math.sqrt(512), shared_embeddings=True,
    tied_output=True, output_bias=True, sinusoid_order="concatenated",
)
T5_SMALL = TransformerConfig(
    source_vocab_size=32128, target_vocab_size=32128, width=512, heads=8, head_size=64, ffn_width=2048,
    encoder_layers=6, decoder_layers=6, max_source_length=512, max_target_length=512, pad_id=0, eos_id=1,
    decoder_start_id=0, norm="rms", norm_position="pre", final_norm=True, norm_epsilon=1e-6, positions="relative",
    relative_buckets=32, relative_max_distance=128, attention_bias=False, ffn_bias=False, attention_scale=1.0,
    shared_embeddings=True, tied_output=True, output_scale=1 / math.sqrt(512),
)
TINY = {"vocabulary": 60, "width": 32, "heads": 4, "head_size": 8, "ffn_width": 48, "layers": 2, "length": 64}
SHAPES = {"marian": MARIAN, "t5-small": T5_SMALL}


def build(name: str, made: Bundles, *, tiny: bool) -> None:
    """Write both bundles of a model, and its checkpoint where it is not the demo's own."""
    if made.checkpoint != DEMO:
        config = SHAPES.get(name, MARIAN)
        save_native(random_model(_tiny(config) if tiny else config), _created(made.checkpoint), None)
    loaded = choose_family(made.checkpoint).read(made.checkpoint)
    description = dataclasses.replace(describe(loaded, name, "fp32"), alignment=None)
    write_graphs(loaded.model, _created(made.fp32), kernels=False)  # float16 is made of these, for CUDA
    (made.fp32 / "model.json").write_text(description.to_json())
    write_rounded(made.fp32, _created(made.fp16), description, "fp16", lambda _: None)
    shutil.rmtree(made.fp16 / EMULATION)
    for bundle in (made.fp32, made.fp16):
        write_manifest(bundle)


@torch.no_grad()
def random_model(config: TransformerConfig) -> Transformer:
    """Seeded weights that answer with varied tokens, and do not magnify what rounding changes.

    Gains as ``make_models`` found them by trial: sharp attention that adds little, a strong feed-forward layer without
    a constant part, and a token embedding of zero to begin from.
    """
    model = Transformer(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2017)
    sharp = 2.0 / math.sqrt(config.head_size) if config.attention_scale == 1.0 else 2.0  # where scores are not scaled
    for name, tensor in model.named_parameters():
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            tensor.copy_(1 + 0.02 * values if "norm" in name and name.endswith("weight") else 0.02 * values)
            continue
        gain = 1.0 if "tokens" in name or name == "output.weight" else 2.0 if ".ffn." in name else 0.5
        gain = {"query": sharp, "key": 2.0}.get(name.split(".")[-2], gain)
        tensor.copy_(values * gain / math.sqrt(tensor.shape[-1]))
        if ".ffn.outer." in name:
            tensor.copy_(tensor - tensor.mean(1, keepdim=True))
        if "tokens" in name:
            tensor[config.pad_id] = 0.0
    return model


def _tiny(config: TransformerConfig) -> TransformerConfig:
    words, layers, length = TINY["vocabulary"], TINY["layers"], TINY["length"]
    return dataclasses.replace(
        config, source_vocab_size=words, target_vocab_size=words, width=TINY["width"], heads=TINY["heads"],
        head_size=TINY["head_size"], ffn_width=TINY["ffn_width"], encoder_layers=layers, decoder_layers=layers,
        max_source_length=length, max_target_length=length, pad_id=min(config.pad_id, words - 1),
        decoder_start_id=min(config.decoder_start_id, words - 1),
    )


def _created(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
