"""The canonical encoder-decoders: PyTorch models that train, serve as reference and are traced."""

from seqserve_export.model.canonical import CanonicalConfig, CanonicalModel
from seqserve_export.model.config import TransformerConfig
from seqserve_export.model.recurrent import RecurrentSeq2Seq
from seqserve_export.model.recurrent_config import RecurrentConfig
from seqserve_export.model.transformer import Transformer

__all__ = [
    "CanonicalConfig", "CanonicalModel", "RecurrentConfig", "RecurrentSeq2Seq", "Transformer", "TransformerConfig",
]
