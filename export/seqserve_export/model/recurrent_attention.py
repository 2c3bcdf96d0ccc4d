"""Attention of a recurrent decoder: how states are compared with a source, and which of its tokens are looked at."""

import torch
from torch import Tensor, nn

from seqserve_export.model.attention import masked_softmax
from seqserve_export.model.recurrent_config import RecurrentConfig
from seqserve_export.model.scores import (
    additive_score,
    dot_score,
    gaussian_factor,
    monotonic_centre,
    predictive_centre,
    visible_keys,
    window,
)


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

    def weights(self, query: Tensor, keys: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
        """Attention weights [batch, source].

        Args:
            query: [batch, hidden].
            keys: [batch, source, key width], of ``project_keys``.
            lengths: [batch], valid tokens of each source.
            steps: integer [batch], how many target tokens came before.
        """
        projected = self.query(query)[:, None]
        if self.score is not None:
            scores = additive_score(projected, keys, self.score.weight[0])
        else:
            scores = dot_score(projected, keys, self.config.score_scale)
        return self.look(scores, query, lengths, steps)

    def look(self, scores: Tensor, query: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
        """The weights of scores [batch, 1, source]; the rest as of ``weights``."""
        count, reach = scores.shape[2], self.config.half_window
        visible = visible_keys(lengths, count)
        if self.config.window == "global":
            return masked_softmax(scores, visible)[:, 0]
        centre = self.centres(query, lengths, steps)
        weights = masked_softmax(scores, visible & window(centre, reach, count))
        if self.config.window == "predictive":
            weights = weights * gaussian_factor(centre, reach, count)
        return weights[:, 0]

    def centres(self, query: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
        """[batch, 1]: the place in each source that its window lies around."""
        if self.config.window == "monotonic":
            return monotonic_centre(steps[:, None], lengths)
        return predictive_centre(self.position(query)[:, None], self.centre.weight[0], lengths)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The context [batch, hidden], a mean of ``values`` [batch, source, hidden], and its weights."""
        weights = self.weights(query, keys, lengths, steps)
        context = torch.matmul(self.dropout(weights)[:, None, :], values)[:, 0]
        return context, weights
