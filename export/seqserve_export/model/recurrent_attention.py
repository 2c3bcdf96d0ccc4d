"""Attention of a recurrent decoder: how states are compared with a source, and which of its tokens are looked at."""

import torch
from torch import Tensor, nn

from seqserve_export.model.recurrent_config import RecurrentConfig


class RecurrentAttention(nn.Module):
    """One query per sequence over the states of its source.

    Scores of Bahdanau et al. 2015, section A.1.2 ("additive"), and Luong et al. 2015, equation 8 ("dot", "general",
    "concat"); windows of its section 3.2. The additive form has no biases, as in "Dive into Deep Learning", section
    "Attention Scoring Functions".
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_width
        summed = config.score in ("additive", "concat")
        # "dot" compares the states themselves.
        projected = summed or config.score == "general"
        self.query = nn.Linear(width, config.attention_width, bias=False) if summed else nn.Identity()
        self.key = nn.Linear(width, config.key_width, bias=False) if projected else nn.Identity()
        self.score = nn.Linear(config.attention_width, 1, bias=False) if summed else None
        if config.window == "predictive":
            self.position = nn.Linear(width, width, bias=False)  # W_p
            self.centre = nn.Linear(width, 1, bias=False)  # v_p^T
        self.dropout = nn.Dropout(config.dropout)

    def project_keys(self, states: Tensor) -> Tensor:
        """What source states [batch, source, hidden] are compared by: [batch, source, key width], once per source."""
        keys: Tensor = self.key(states)
        return keys

    def weights(self, query: Tensor, keys: Tensor, lengths: Tensor, step: int) -> Tensor:
        """Attention weights [batch, source].

        Args:
            query: [batch, hidden].
            keys: [batch, source, key width], of ``project_keys``.
            lengths: [batch], valid tokens of each source.
            step: How many target tokens came before.
        """
        return self.look(self.scores(query, keys), query, lengths, step)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """[batch, source]: of every source token, how well it fits the query."""
        projected = self.query(query)[:, None, :]
        if self.score is not None:
            summed: Tensor = self.score(torch.tanh(projected + keys))[:, :, 0]
            return summed
        return torch.matmul(keys, (projected * self.config.score_scale).transpose(1, 2))[:, :, 0]

    def look(self, scores: Tensor, query: Tensor, lengths: Tensor, step: int) -> Tensor:
        """The softmax of scores [batch, source] over the tokens in sight, around a predicted centre by its bell."""
        places = torch.arange(scores.shape[1], device=scores.device)[None, :]
        visible = places < lengths[:, None]
        offset = None
        if self.config.window != "global":
            offset = places - self.centres(query, lengths, step)[:, None]
            visible = visible & (offset.abs() <= self.config.half_window)
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
        if offset is not None and self.config.window == "predictive":
            # Equation 10: exp(-(s - p_t)^2 / (2 sigma^2)) with sigma = D / 2. The product is not normalised again.
            weights = weights * torch.exp(-2.0 * (offset / self.config.half_window).square())
        return weights

    def centres(self, query: Tensor, lengths: Tensor, step: int) -> Tensor:
        """[batch]: p_t, the place in each source that its window lies around; never beyond its last token.

        Luong et al. leave open what a monotonic window is whose centre has passed the end of the source. It stays at
        the last token here, so that no window is without tokens.
        """
        if self.config.window == "monotonic":
            return (lengths - 1).clamp(max=step).to(query.dtype)
        predicted: Tensor = torch.sigmoid(self.centre(torch.tanh(self.position(query))))[:, 0]  # equation 9
        return lengths * predicted

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """The context [batch, hidden], a mean of ``values`` [batch, source, hidden], and its weights."""
        weights = self.weights(query, keys, lengths, step)
        context = torch.matmul(self.dropout(weights)[:, None, :], values)[:, 0]
        return context, weights
