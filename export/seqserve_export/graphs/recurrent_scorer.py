"""The recurrent scorer's graph: given targets, teacher-forced, with what each token attended to."""

from functools import partial

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from seqserve_export.graphs.recurrent_blocks import GraphStep
from seqserve_export.model.recurrent import RecurrentSeq2Seq

INPUTS = ("tokens", "positions", "wanted", "pad_index", "pack_index", "source_lengths", "source_pad_index")
OUTPUTS = ("log_probs", "alignment")


class RecurrentScorerGraph(nn.Module):
    """Whole targets, one position of all of them after the other: each state needs the one before.

    Only the products with the vocabulary, most of the work, are done for all tokens at once.
    """

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        super().__init__()
        self.config, self.model = model.config, model
        self.step = GraphStep(model)

    def forward(
        self, tokens: Tensor, positions: Tensor, wanted: Tensor, pad_index: Tensor, pack_index: Tensor,
        source_lengths: Tensor, source_pad_index: Tensor, hidden: Tensor, source: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Score packed targets.

        Args:
            tokens: int64 [n], what the decoder is fed, one target after the other: all but the last token of each.
            positions: int32 [n], each token's place in its target.
            wanted: int64 [n], the token after each.
            pad_index: int64 [batch, length], where in ``tokens`` each padded place is found (padding: anywhere).
            pack_index: int64 [n], where in the flattened padded batch each token stands.
            source_lengths: int32 [batch].
            source_pad_index: int64 [batch, source], where in ``source`` each padded place of a source is found.
            hidden: [layers, batch, hidden], as the encoder graph gives it.
            source: Values [1, m, hidden] and, where they are not compared themselves, keys [1, m, key width], as the
                encoder graph gives them for the packed sources.

        Returns:
            Log-probability [n] of each wanted token, and the attention [n, source] that was paid for it.
        """
        embedded = functional.embedding(pad_index.transpose(0, 1), self.model.target_embedding.tokens(tokens))
        steps = functional.embedding(pad_index.transpose(0, 1), positions[:, None])[:, :, 0]
        held, *compared = (functional.embedding(source_pad_index, each[0]) for each in source)
        keys = compared[0] if compared else held

        def advance(before: list[Tensor], inputs: tuple[Tensor, Tensor]) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
            layers, fed = before[: len(hidden)], before[len(hidden) :]
            token, positions = inputs
            attend = partial(
                self.step.attention.padded, positions=positions, keys=keys, values=held, lengths=source_lengths
            )
            states, after, weights = self.step(token, layers, fed, attend)
            return [*after, *([states] * len(fed))], (states + 0.0, weights)

        start = [*(each + 0.0 for each in hidden), *([torch.zeros_like(hidden[0])] * int(self.config.input_feeding))]
        _, (states, weights) = scan(advance, start, (embedded, steps))
        logits = self.model.project(_packed(states, pack_index))
        log_probs = torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None])[:, 0]
        return log_probs, _packed(weights, pack_index)


def _packed(padded: Tensor, pack_index: Tensor) -> Tensor:
    """[length, batch, size] -> [n, size]."""
    return functional.embedding(pack_index, padded.transpose(0, 1).flatten(0, 1))
