"""Attention pooling: a weighted sum of values, from plain averages to self-attention.

The primitives of attention in one place, each with its shapes and the source of its formula. What only scores is in
``scores``; scaled dot-product and multi-head attention are those of the canonical Transformer, in ``attention``.
Everywhere ``visible`` is bool, broadcast to [batch, queries, keys]; ``scores.visible_keys`` makes it of valid lengths.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from seqserve_export.model.attention import MultiHeadAttention, masked_softmax
from seqserve_export.model.config import TransformerConfig
from seqserve_export.model.positions import sinusoid_table
from seqserve_export.model.scores import additive_score, dot_score, visible_keys

ScoreMode = Literal["dot", "concat"]


def pool(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sums of values: [batch, queries, keys] and [batch, keys, width] give [batch, queries, width]."""
    return torch.matmul(weights, values)


def average_pooling(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of the first ``lengths[b]`` values: attention whose weights are all equal.

    Args:
        values: float [batch, keys, width].
        lengths: integer [batch], at least 1.

    Returns:
        [batch, width].
    """
    visible = visible_keys(lengths, values.shape[1])
    equal = torch.zeros_like(visible, dtype=values.dtype)
    return pool(masked_softmax(equal, visible), values)[:, 0]


def max_pooling(values: Tensor, lengths: Tensor) -> Tensor:
    """Largest of the first ``lengths[b]`` values, column by column; shapes as of ``average_pooling``."""
    visible = visible_keys(lengths, values.shape[1]).transpose(1, 2)
    return values.masked_fill(~visible, torch.finfo(values.dtype).min).amax(dim=1)


class KernelRegression(nn.Module):
    """Nadaraya-Watson regression with a Gaussian kernel: attention over observed pairs.

    Nadaraya 1964 and Watson 1964, ``sum_i K(x - x_i) y_i / sum_j K(x - x_j)``. With ``K(u) = exp(-(u w)^2 / 2)`` the
    quotient is a softmax of ``-(u w)^2 / 2``. ``w``, one over the width of the kernel, is a parameter where the width
    is learned, else fixed.
    """

    inverse_width: Tensor

    def __init__(self, width: float = 1.0, *, learned: bool = False) -> None:
        """A kernel of that width, in the unit of the keys; ``learned``: the width it starts from."""
        super().__init__()
        start = torch.tensor(1.0 / width)
        if learned:
            self.inverse_width = nn.Parameter(start)
        else:
            self.register_buffer("inverse_width", start)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and the weights that they are made of.

        Args:
            queries: float [batch, queries], where to predict.
            keys: float [batch, keys], where there were observations.
            values: float [batch, keys], what was observed.
            visible: Which observations count. Leaving out a point's own one makes a training loss that means
                something: with it, the narrowest kernel would win.

        Returns:
            Float [batch, queries] and [batch, queries, keys].
        """
        distance = (queries[:, :, None] - keys[:, None]) * self.inverse_width
        weights = masked_softmax(-distance.square() / 2, visible)
        return pool(weights, values[..., None])[..., 0], weights


class AdditiveAttention(nn.Module):
    """``softmax(v . tanh(W_q q + W_k k))`` over the visible keys; Bahdanau et al. 2015. No biases, as in the book d2l.

    Names of the parameters: ``query`` and ``key`` (hidden x width each) and ``vector`` (hidden).
    """

    def __init__(self, query_width: int, key_width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden, bias=False)
        self.key = nn.Linear(key_width, hidden, bias=False)
        self.vector = nn.Parameter(torch.empty(hidden).uniform_(-1, 1) * hidden**-0.5)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Result [batch, queries, value width] and weights [batch, queries, keys].

        Args:
            query: float [batch, queries, query width].
            key: float [batch, keys, key width].
            value: float [batch, keys, value width].
            visible: Keys that get weight.
        """
        weights = masked_softmax(additive_score(self.query(query), self.key(key), self.vector), visible)
        return pool(weights, value), weights


class DotProductAttention(nn.Module):
    """Dot-product attention of ``tf.keras.layers.Attention``: the same options, results and parameters.

    Score mode "dot": ``scale * q . k``; "concat": ``c * sum(tanh(scale * (q + k)))``. ``scale`` and ``c`` are learned
    numbers that start at 1; there is a ``scale`` only with ``use_scale``, a ``c`` only with "concat". The scale does
    not depend on the width: 1 / sqrt(width) is of another layer.
    """

    def __init__(self, *, use_scale: bool = False, score_mode: ScoreMode = "dot") -> None:
        super().__init__()
        if score_mode not in ("dot", "concat"):
            raise ValueError(f"score_mode: {score_mode!r} is not one of dot, concat")
        self.scale = nn.Parameter(torch.ones(())) if use_scale else None
        self.concat_score_weight = nn.Parameter(torch.ones(())) if score_mode == "concat" else None

    def forward(
        self, query: Tensor, value: Tensor, key: Tensor | None = None, *, query_visible: Tensor | None = None,
        value_visible: Tensor | None = None, causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Result [batch, queries, value width] and weights [batch, queries, keys].

        Args:
            query: float [batch, queries, width].
            value: float [batch, keys, value width].
            key: float [batch, keys, width]; without one the values are their own keys.
            query_visible: bool [batch, queries]; the result of a False one is zero.
            value_visible: bool [batch, keys]; a False one gets weight zero.
            causal: Whether query i sees only keys 0..i.
        """
        scores = self._scores(query, value if key is None else key)
        visible = torch.ones_like(scores, dtype=torch.bool)
        if value_visible is not None:
            visible = visible & value_visible[:, None]
        if causal:
            visible = visible.tril()
        weights = masked_softmax(scores, visible)
        result = pool(weights, value)
        if query_visible is not None:
            result = result * query_visible[..., None]
        return result, weights

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        scale = 1.0 if self.scale is None else self.scale
        if self.concat_score_weight is None:
            return dot_score(query, key, scale)
        return additive_score(query, key, self.concat_score_weight.expand(query.shape[-1]), scale)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, after sinusoids have told each token its place.

    Vaswani et al. 2017, sections 3.2.2 and 3.5; the table's order is the configuration's.
    """

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        table = sinusoid_table(config.max_source_length, config.width, config.sinusoid_order)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States [batch, length, width] of ``lengths`` [batch] valid tokens each -> [batch, length, width]."""
        placed = states + self.positions[: states.shape[1]]
        key, value = self.attention.keys_values(placed)
        return self.attention.attend(placed, key, value, visible_keys(lengths, states.shape[1])[:, None])
