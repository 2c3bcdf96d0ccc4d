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
        candidates: Tensor, own: list[Tensor], source: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """One step.

        Args:
            tokens: int64 [rows], the last token of every row.
            positions: int32 [rows], how many tokens came before.
            source_lengths: int32 [rows].
            target_extent: int32 scalar, not looked at: what a row remembers does not grow.
            source_extent: int32 scalar, at least the longest source.
            candidates: int64 [1], how many best tokens to return per row.
            own: The hidden layers and, with input feeding, what is fed: [rows, hidden] each.
            source: Values [rows, source capacity, hidden] and, where they are not compared themselves, keys [rows,
                source capacity, key width].

        Returns:
            Log-probabilities and ids of the best tokens, each [rows, candidates], best first, ties to the lower id;
            the logits [rows, vocabulary]; and what ``own`` is next.
        """
        del target_extent
        token = self.model.target_embedding.tokens(tokens)
        attend = partial(
            self.step.attention, positions=positions, keys=source[-1], values=source[0],
            lengths=source_lengths, extent=source_extent,
        )
        layers = self.config.decoder_layers
        states, hidden, _ = self.step(token, own[:layers], own[layers:], attend)
        logits = self.model.project(states)
        log_probs, token_ids = top_candidates(torch.log_softmax(logits, dim=-1), candidates)
        return log_probs, token_ids, logits, [*hidden, *([states] * int(self.config.input_feeding))]
