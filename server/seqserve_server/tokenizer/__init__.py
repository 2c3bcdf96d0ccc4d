"""Text to ids and back, and the incremental way back that a stream needs."""

from seqserve_server.tokenizer.base import Tokenizer
from seqserve_server.tokenizer.incremental import IncrementalDetokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer"]
