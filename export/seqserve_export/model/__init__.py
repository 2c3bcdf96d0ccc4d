"""The canonical encoder-decoder: one PyTorch model that trains, serves as reference and is traced."""

from seqserve_export.model.config import TransformerConfig
from seqserve_export.model.transformer import Transformer

__all__ = ["Transformer", "TransformerConfig"]
