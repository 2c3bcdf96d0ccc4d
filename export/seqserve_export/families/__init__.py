"""Checkpoint families: which files they consist of and how they map onto the canonical model."""

from seqserve_export.families.checkpoint import Family, LoadedCheckpoint
from seqserve_export.families.registry import FAMILIES, choose_family

__all__ = ["FAMILIES", "Family", "LoadedCheckpoint", "choose_family"]
