"""Encoder and decoder layers: attention and feed-forward sub-layers, each inside Add & Norm."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqserve_export.model.attention import MultiHeadAttention
from seqserve_export.model.config import TransformerConfig
from seqserve_export.model.retention import MultiScaleRetention

KeysValues = tuple[Tensor, Tensor]
Past = KeysValues | Tensor
LayerT = TypeVar("LayerT", bound=nn.Module)


class Stack(nn.ModuleList, Generic[LayerT]):
    """Layers in order. It remembers their type, which ``nn.ModuleList`` forgets."""

    def __iter__(self) -> Iterator[LayerT]:
        return cast(Iterator[LayerT], super().__iter__())


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon) * weight`` over the last axis; Zhang and Sennrich 2019."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


def make_norm(config: TransformerConfig) -> nn.Module:
    """The normalisation that the configuration names."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_epsilon)
    return nn.LayerNorm(config.width, eps=config.norm_epsilon)


def activate(states: Tensor, name: str) -> Tensor:
    """Elementwise activation by its configuration name."""
    if name == "relu":
        return functional.relu(states)
    if name == "silu":
        return functional.silu(states)
    return functional.gelu(states, approximate="tanh" if name == "gelu_tanh" else "none")


class FeedForward(nn.Module):
    """Position-wise ``W2 f(W1 x)``, or the gated ``W2 (f(Wg x) * W1 x)`` of Shazeer 2020."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.inner = nn.Linear(config.width, config.ffn_width, bias=config.ffn_bias)
        self.gate = nn.Linear(config.width, config.ffn_width, bias=config.ffn_bias) if config.gated_ffn else None
        self.outer = nn.Linear(config.ffn_width, config.width, bias=config.ffn_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        inner = self.inner(states)
        hidden = activate(inner, self.activation) if self.gate is None else (
            activate(self.gate(states), self.activation) * inner
        )
        outputs: Tensor = self.outer(self.dropout(hidden))
        return outputs


class AddNorm(nn.Module):
    """Residual connection and norm around a sub-layer: ``norm(x + f(x))`` (post) or ``x + f(norm(x))`` (pre)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """[..., width] -> [..., width]."""
        summed: Tensor = states + self.dropout(sublayer(self.norm(states) if self.pre else states))
        normed: Tensor = summed if self.pre else self.norm(summed)
        return normed


class EncoderLayer(nn.Module):
    """Self-attention over the source, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention, self.ffn = MultiHeadAttention(config), FeedForward(config)
        self.attention_norm, self.ffn_norm = AddNorm(config), AddNorm(config)

    def forward(self, states: Tensor, visible: Tensor, bias: Tensor | None) -> Tensor:
        """states [batch, length, width]; visible broadcast to [batch, heads, length, length]."""
        def attend(inputs: Tensor) -> Tensor:
            key, value = self.attention.keys_values(inputs)
            return self.attention.attend(inputs, key, value, visible, bias)

        outputs: Tensor = self.ffn_norm(self.attention_norm(states, attend), self.ffn)
        return outputs


class DecoderLayer(nn.Module):
    """Masked self-attention or retention, cross-attention to the encoder's keys and values, feed-forward.

    The norm around the first of them is ``attention_norm`` in both cases: checkpoints name it so.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        retains = config.decoder_mixing == "retention"
        self.attention = None if retains else MultiHeadAttention(config)
        self.retention = MultiScaleRetention(config) if retains else None
        self.cross = MultiHeadAttention(config)
        self.ffn = FeedForward(config)
        self.attention_norm, self.cross_norm, self.ffn_norm = AddNorm(config), AddNorm(config), AddNorm(config)

    def forward(
        self, states: Tensor, cross: KeysValues, cross_visible: Tensor, visible: Tensor,
        bias: Tensor | None, start: int, past: Past | None = None,
    ) -> tuple[Tensor, Past]:
        """One layer over new target positions.

        Args:
            states: [batch, new, width].
            cross: source keys and values, each [batch, heads, source, head_size].
            visible: broadcast to [batch, heads, new, past + new].
            start: position of the first of them.
            past: of earlier positions: cached keys and values, each [batch, heads, past, head_size]; or the state
                [batch, heads, head_size, value size] that retention has made of them.

        Returns:
            States [batch, new, width], and what all positions so far have left behind, in the form of ``past``.
        """
        left: list[Past] = []

        def mix(inputs: Tensor) -> Tensor:
            if self.retention is not None:
                outputs, state = self.retention(inputs, start, cast(Tensor | None, past))
                left.append(state)
                return cast(Tensor, outputs)
            attention = self_attention(self)
            key, value = attention.keys_values(inputs)
            if past is not None:
                key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
            left.append((key, value))
            return attention.attend(inputs, key, value, visible, bias)

        states = self.attention_norm(states, mix)
        states = self.cross_norm(states, lambda inputs: self.cross.attend(inputs, *cross, cross_visible))
        return self.ffn_norm(states, self.ffn), left[0]


def self_attention(layer: DecoderLayer) -> MultiHeadAttention:
    """The self-attention of a layer that has one.

    Raises:
        TypeError: it has retention.
    """
    if layer.attention is None:
        raise TypeError("this decoder layer has retention, not self-attention")
    return layer.attention


def retention(layer: DecoderLayer) -> MultiScaleRetention:
    """The retention of a layer that has it.

    Raises:
        TypeError: it has self-attention.
    """
    if layer.retention is None:
        raise TypeError("this decoder layer has self-attention, not retention")
    return layer.retention
