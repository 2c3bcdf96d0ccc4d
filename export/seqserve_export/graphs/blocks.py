"""Pieces both graphs share: fused projections with padded heads, Add & Norm chains, embeddings of packed tokens."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqserve_export.graphs.operators import rms_norm
from seqserve_export.model.attention import MultiHeadAttention
from seqserve_export.model.layers import AddNorm, RMSNorm
from seqserve_export.model.transformer import Embedding

HEAD_MULTIPLE = 8  # GroupQueryAttention refuses head sizes that are not a multiple of this


def padded_head_size(head_size: int) -> int:
    """The head size of the caches: the next multiple of 8. Zero columns change no score and no value."""
    return -(-head_size // HEAD_MULTIPLE) * HEAD_MULTIPLE


def pad_head_rows(weight: Tensor, heads: int, padded: int) -> Tensor:
    """[heads * head_size, ...] -> [heads * padded, ...], zeros behind every head."""
    size = weight.shape[0] // heads
    split = weight.reshape(heads, size, *weight.shape[1:])
    grown = split.new_zeros(heads, padded, *weight.shape[1:])
    grown[:, :size] = split
    return grown.reshape(heads * padded, *weight.shape[1:])


def joined_projection(parts: list[nn.Linear], heads: int, padded: int) -> nn.Linear:
    """One linear layer computing all ``parts`` side by side: [width] -> [parts * heads * padded]."""
    joined = nn.Linear(parts[0].in_features, len(parts) * heads * padded, bias=parts[0].bias is not None)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([pad_head_rows(part.weight, heads, padded) for part in parts]))
        if joined.bias is not None:
            joined.bias.copy_(torch.cat([pad_head_rows(part.bias, heads, padded) for part in parts]))
    return joined


def output_projection(attention: MultiHeadAttention, padded: int) -> nn.Linear:
    """The projection of joined heads back to the width, reading heads that are padded."""
    source = attention.output
    projection = nn.Linear(attention.heads * padded, source.out_features, bias=source.bias is not None)
    with torch.no_grad():
        projection.weight.copy_(pad_head_rows(source.weight.T, attention.heads, padded).T)
        if projection.bias is not None:
            projection.bias.copy_(source.bias)
    return projection


def apply_norm(norm: nn.Module, states: Tensor) -> Tensor:
    """Either norm, or none."""
    return rms_norm(norm, states) if isinstance(norm, RMSNorm) else norm(states)


class NormChain:
    """Runs sub-layers through Add & Norm, for both positions of the norm.

    Post-norm: every sub-layer ends in ``norm(x + f(x))``. Pre-norm: the sum ("residual") and its norm, which the next
    sub-layer reads ("inputs"), travel together.

    Addition and norm stay two nodes: on the CPU the fused operator takes longer than the two (docs/performance.md). A
    runtime that gains by fusing them can still do so when it loads the graph; on other devices neither was measured.
    """

    def __init__(self, first: AddNorm, states: Tensor) -> None:
        self.residual = states
        self.inputs = apply_norm(first.norm, states) if first.pre else states
        self.pre = first.pre

    def run(self, sublayer: Callable[[Tensor], Tensor], here: AddNorm, following: nn.Module) -> None:
        """Apply one sub-layer. ``following`` is the norm that the next reader of the stream begins with (pre-norm)."""
        self.residual = self.residual + sublayer(self.inputs)
        self.inputs = apply_norm(following if self.pre else here.norm, self.residual)
        if not self.pre:
            self.residual = self.inputs

    def finish(self, final: nn.Module) -> Tensor:
        """The stack's output: pre-norm already applied ``final`` as the last ``following``."""
        return self.inputs if self.pre else apply_norm(final, self.inputs)


def embed(embedding: Embedding, tokens: Tensor, positions: Tensor) -> Tensor:
    """Packed tokens [n] at int32 positions [n] -> [n, width]."""
    states = embedding.tokens(tokens) * embedding.scale
    if embedding.positions is not None:
        table = embedding.positions[embedding.offset :]
        states = states + nn.functional.embedding(positions, table)
    return apply_norm(embedding.norm, states)
