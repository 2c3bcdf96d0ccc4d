"""The models of ``gpu.py``: the demo's and random ones of known shapes, each as a bundle for the CPU and one for CUDA.

Not proved as an export proves them, which takes minutes for each: that they say the same is what is measured.
"""

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from seqserve.manifest import write_manifest
from seqserve_export.description import describe
from seqserve_export.families import choose_family
from seqserve_export.families.native import save_native
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.pipeline import write_graphs
from seqserve_export.precision import EMULATION, write_rounded

DEMO = Path(__file__).parent.parent / "demo" / "en-de"
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
NAMES = ("demo", *SHAPES)


@dataclass(frozen=True)
class Bundles:
    """Directories of one model: the checkpoint, and what was made of it."""

    checkpoint: Path
    fp32: Path
    fp16: Path


def make_bundles(name: str, work: Path, *, tiny: bool) -> Bundles:
    """Both bundles of a model below ``work``; those that are there are taken. ``tiny`` for trying things out."""
    directory = work / (f"{name}-tiny" if tiny else name)
    checkpoint = DEMO if name == "demo" and not tiny else directory / "checkpoint"
    made = Bundles(checkpoint, directory / "fp32", directory / "fp16")
    if (made.fp16 / "manifest.json").is_file():
        return made
    shutil.rmtree(directory, ignore_errors=True)
    if checkpoint != DEMO:
        config = SHAPES.get(name, MARIAN)
        save_native(random_model(_tiny(config) if tiny else config), _created(checkpoint), None)
    loaded = choose_family(checkpoint).read(checkpoint)
    description = dataclasses.replace(describe(loaded, name, "fp32"), alignment=None)
    write_graphs(loaded.model, _created(made.fp32), kernels=False)  # float16 is made of these, for CUDA
    (made.fp32 / "model.json").write_text(description.to_json())
    write_rounded(made.fp32, _created(made.fp16), description, "fp16", lambda _: None)
    shutil.rmtree(made.fp16 / EMULATION)
    for bundle in (made.fp32, made.fp16):
        write_manifest(bundle)
    return made


@torch.no_grad()
def random_model(config: TransformerConfig) -> Transformer:
    """Seeded weights, wide enough for answers that wander through the vocabulary."""
    model = Transformer(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2017)
    for name, tensor in model.named_parameters():
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            tensor.copy_(1 + 0.02 * values if "norm" in name and name.endswith("weight") else 0.02 * values)
        else:
            gain = 2.0 if ".query." in name or ".key." in name else 0.5
            tensor.copy_(values * (1.0 if "tokens" in name else gain) / math.sqrt(tensor.shape[-1]))
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
