"""Scaled dot-product attention with valid lengths, and multi-head attention around it."""

import torch
from torch import Tensor, nn

from seqserve_export.model.config import TransformerConfig


def masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the last axis, with weight zero where ``visible`` is False; Vaswani et al. 2017, section 3.2.3.

    Args:
        scores: float [..., keys].
        visible: bool, broadcast to the scores.

    Returns:
        Weights, as the scores. A row with no visible key (padding) gets equal weights.
    """
    # A finite floor, not -inf: a row with no visible key then averages instead of becoming NaN.
    return torch.softmax(scores.masked_fill(~visible, torch.finfo(scores.dtype).min), dim=-1)


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, *, visible: Tensor, scale: float,
    bias: Tensor | None = None, dropout: nn.Module | None = None,
) -> Tensor:
    """``softmax(scale * Q K^T + bias) V``; Vaswani et al. 2017, section 3.2.1.

    Args:
        query: [batch, heads, queries, head_size].
        key, value: [batch, heads, keys, head_size].
        visible: bool, broadcast to [batch, heads, queries, keys]; False keys get weight zero.
        scale: factor on the scores.
        bias: added to the scores, broadcast likewise.

    Returns:
        [batch, heads, queries, head_size].
    """
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    weights = masked_softmax(scores, visible)
    if dropout is not None:
        weights = dropout(weights)
    return torch.matmul(weights, value)


class MultiHeadAttention(nn.Module):
    """Projections of queries, keys and values into heads, and of the joined heads back. Biases are optional."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_size
        self.heads, self.head_size, self.scale = config.heads, config.head_size, config.score_scale
        self.query = nn.Linear(config.width, inner, bias=config.attention_bias)
        self.key = nn.Linear(config.width, inner, bias=config.attention_bias)
        self.value = nn.Linear(config.width, inner, bias=config.attention_bias)
        self.output = nn.Linear(inner, config.width, bias=config.attention_bias)
        self.dropout = nn.Dropout(config.dropout)

    def split(self, projected: Tensor) -> Tensor:
        """[batch, length, heads * head_size] -> [batch, heads, length, head_size]."""
        batch, length, _ = projected.shape
        return projected.view(batch, length, self.heads, self.head_size).transpose(1, 2)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states [batch, length, width], each [batch, heads, length, head_size]."""
        return self.split(self.key(states)), self.split(self.value(states))

    def attend(self, states: Tensor, key: Tensor, value: Tensor, visible: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from states [batch, queries, width] to given keys and values; returns [batch, queries, width]."""
        heads = dot_product_attention(
            self.split(self.query(states)), key, value,
            visible=visible, scale=self.scale, bias=bias, dropout=self.dropout,
        )
        batch, _, queries, _ = heads.shape
        joined = heads.transpose(1, 2).reshape(batch, queries, self.heads * self.head_size)
        outputs: Tensor = self.output(joined)
        return outputs
