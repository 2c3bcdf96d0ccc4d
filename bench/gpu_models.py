"""The models of ``gpu.py``: the demo's and random ones of known shapes, each as a bundle for the CPU and one for CUDA.

Not proved as an export proves them, which takes minutes for each: that they say the same is what is measured.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

DEMO = Path(__file__).parent.parent / "demo" / "en-de"
NAMES = ("demo", "marian", "t5-small")


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
    from gpu_making import build  # needs all that an export needs

    shutil.rmtree(directory, ignore_errors=True)
    build(name, made, tiny=tiny)
    return made
