"""Recurrent models that attend with the new state, as Luong et al. 2015: this project's own checkpoints."""

from pathlib import Path

from seqserve_export.families import recurrent
from seqserve_export.families.checkpoint import NOTHING_SAID, LoadedCheckpoint

NAME = "luong"


def recognises(directory: Path) -> bool:
    """A config.json that says the wiring."""
    return recurrent.wiring(directory) == NAME


def load(directory: Path) -> LoadedCheckpoint:
    """Read a checkpoint."""
    return recurrent.load(directory, NAME, NOTHING_SAID)
