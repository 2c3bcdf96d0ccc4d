"""What the graphs of the recurrent model share: a step of its units, and its attention."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqserve_export.graphs.source_operators import dot_scores, pool, sum_scores
from seqserve_export.model.recurrent import RecurrentSeq2Seq
from seqserve_export.model.recurrent_attention import RecurrentAttention
from seqserve_export.model.recurrent_config import RecurrentConfig
from seqserve_export.model.scores import additive_score, dot_score

Attend = Callable[[Tensor], tuple[Tensor, Tensor]]
SUM_MULTIPLE = 16  # see ``source_operators``


def padded_key_width(config: RecurrentConfig) -> int:
    """The width of keys in the graphs. Zeros behind those of a sum add tanh(0) = 0."""
    summed = config.score in ("additive", "concat")
    return -(-config.key_width // SUM_MULTIPLE) * SUM_MULTIPLE if summed else config.key_width


def key_projection(attention: RecurrentAttention) -> nn.Linear | None:
    """Keys of source states; None where the states are the keys."""
    if not isinstance(attention.key, nn.Linear):
        return None
    return _widened(attention.key.weight, padded_key_width(attention.config))


def _widened(weight: Tensor, outputs: int) -> nn.Linear:
    """A projection without bias, with zeros for the outputs that it has too few of."""
    widened = nn.Linear(weight.shape[1], outputs, bias=False)
    with torch.no_grad():
        widened.weight.zero_()
        widened.weight[: weight.shape[0]] = weight
    return widened


class GraphAttention(nn.Module):
    """Attention of rows to their sources."""

    def __init__(self, attention: RecurrentAttention) -> None:
        super().__init__()
        self.config, self.attention = attention.config, attention
        if attention.score is not None and isinstance(attention.query, nn.Linear):
            width = padded_key_width(self.config)
            self.query = _widened(attention.query.weight, width)
            vector = torch.zeros(width)
            vector[: self.config.attention_width] = attention.score.weight[0]
            self.vector: Tensor
            self.register_buffer("vector", vector.detach())

    def scores(self, query: Tensor, keys: Tensor, extent: Tensor) -> Tensor:
        """[rows, 1, source] of queries [rows, hidden]."""
        if self.attention.score is not None:
            return sum_scores(self.query(query)[:, None, :], keys, self.vector, extent)
        return dot_scores((query * self.config.score_scale)[:, None, :], keys, extent)

    def padded(
        self, query: Tensor, positions: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``forward``, of PyTorch's own operators: no others can be traced inside of a loop."""
        if self.attention.score is not None:
            scores = additive_score(self.query(query)[:, None, :], keys, self.vector)
        else:
            scores = dot_score(query[:, None, :], keys, self.config.score_scale)
        weights = self.attention.look(scores, query, lengths, positions)
        return torch.matmul(weights[:, None, :], values)[:, 0], weights

    def centre(self, query: Tensor, positions: Tensor) -> Tensor | None:
        """[rows, 1]: what says where a window lies."""
        if self.config.window == "global":
            return None
        if self.config.window == "monotonic":
            return positions[:, None].to(torch.float32)
        share: Tensor = torch.sigmoid(self.attention.centre(torch.tanh(self.attention.position(query))))
        return share

    def forward(
        self, query: Tensor, positions: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, extent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The context [rows, hidden] of queries [rows, hidden] at int32 positions [rows], and weights [rows, source].

        Args:
            keys, values: [rows, capacity, width], each row's own source.
            lengths: int32 [rows], of the sources.
            extent: int32 scalar, at least the longest.
        """
        context, weights = pool(
            self.scores(query, keys, extent), values, lengths, extent,
            window=self.config.window, reach=self.config.half_window, centre=self.centre(query, positions),
        )
        return context[:, 0], weights[:, 0]


def unit(units: nn.GRU, layer: int, inputs: Tensor, hidden: Tensor) -> Tensor:
    """One step of a layer of gated recurrent units: [rows, inputs] and [rows, hidden] -> [rows, hidden].

    As PyTorch has them, with the reset gate behind the product: Cho et al. 2014, and footnote 1 of ``torch.nn.GRU``.
    """
    weights = [getattr(units, f"{name}_l{layer}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
    size = units.hidden_size
    given, kept = functional.linear(inputs, *weights[:2]), functional.linear(hidden, *weights[2:])
    gates = torch.sigmoid(given[:, : 2 * size] + kept[:, : 2 * size])
    reset, update = gates[:, :size], gates[:, size:]
    new = torch.tanh(given[:, 2 * size :] + reset * kept[:, 2 * size :])
    return new + update * (hidden - new)


class GraphStep(nn.Module):
    """One target token of every row, as the model's two wirings have it."""

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        super().__init__()
        self.config, self.model = model.config, model
        self.attention = GraphAttention(model.attention)

    def recur(self, inputs: Tensor, hidden: list[Tensor]) -> list[Tensor]:
        """The new hidden layers, each [rows, hidden]."""
        following = []
        for layer, before in enumerate(hidden):
            inputs = unit(self.model.decoder, layer, inputs, before)
            following.append(inputs)
        return following

    def forward(
        self, token: Tensor, hidden: list[Tensor], fed: list[Tensor], attend: Attend
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Advance rows.

        Args:
            token: [rows, embedding], of the tokens given.
            hidden: [rows, hidden] each.
            fed: The attentional state [rows, hidden] of the step before, with input feeding; else empty.
            attend: Of queries [rows, hidden] the context [rows, hidden] and the weights [rows, source].

        Returns:
            What is projected to the vocabulary [rows, hidden], and fed to the next step with input feeding; the new
            hidden layers; and the attention's weights [rows, source].
        """
        if self.model.combine is None:
            context, weights = attend(hidden[-1])
            hidden = self.recur(torch.cat([context, token], dim=-1), hidden)
            return hidden[-1], hidden, weights
        hidden = self.recur(torch.cat([*fed, token], dim=-1), hidden)
        context, weights = attend(hidden[-1])
        attentional = torch.tanh(self.model.combine(torch.cat([context, hidden[-1]], dim=-1)))
        return attentional, hidden, weights
