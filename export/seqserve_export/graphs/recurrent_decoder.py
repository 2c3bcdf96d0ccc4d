"""The recurrent decoder's step graph: one token per row in, the best candidates per row out, hidden layers replaced."""

from functools import partial

import torch
from torch import Tensor, nn

from seqserve_export.graphs.operators import top_candidates
from seqserve_export.graphs.recurrent_blocks import GraphStep
from seqserve_export.model.recurrent import RecurrentSeq2Seq

CONTROLS = ("tokens", "positions", "source_lengths", "target_extent", "source_extent", "candidates")
OUTPUTS = ("log_probs", "token_ids", "logits")


class RecurrentDecoderGraph(nn.Module):
    """One step for any set of rows, each at its own position and with its own source."""

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        super().__init__()
        self.config, self.model = model.config, model
        self.step = GraphStep(model)

    def forward(
        self, tokens: Tensor, positions: Tensor, source_lengths: Tensor, target_extent: Tensor, source_extent: Tensor,
        candidates: Tensor, hidden: list[Tensor], fed: list[Tensor], values: Tensor, keys: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
        """One step.

        Args:
            tokens: int64 [rows], the last token of every row.
            positions: int32 [rows], how many tokens came before.
            source_lengths: int32 [rows].
            target_extent: int32 scalar, not looked at: what a row remembers does not grow.
            source_extent: int32 scalar, at least the longest source.
            candidates: int64 [1], how many best tokens to return per row.
            hidden: [rows, hidden], 1 per layer.
            fed: [rows, hidden], one with input feeding, else none.
            values: [rows, source capacity, hidden].
            keys: [rows, source capacity, key width], one; none where values are compared themselves.

        Returns:
            Log-probabilities and ids of the best tokens, each [rows, candidates], best first, ties to the lower id;
            the logits [rows, vocabulary]; and what ``hidden`` and ``fed`` are next.
        """
        del target_extent
        token = self.model.target_embedding.tokens(tokens)
        attend = partial(
            self.step.attention, positions=positions, keys=keys[0] if keys else values, values=values,
            lengths=source_lengths, extent=source_extent,
        )
        states, hidden, _ = self.step(token, hidden, fed, attend)
        logits = self.model.project(states)
        log_probs, token_ids = top_candidates(torch.log_softmax(logits, dim=-1), candidates)
        return log_probs, token_ids, logits, hidden, [states] * len(fed)
