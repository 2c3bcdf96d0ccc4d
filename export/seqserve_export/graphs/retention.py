"""Retention in the graphs: one position at a time in the step, all positions of given targets at once in the scorer.

Both hold the same matrices, entry for entry, so that a bundle stores them once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqserve_export.graphs.operators import retain, rms_norm
from seqserve_export.model.layers import RMSNorm
from seqserve_export.model.retention import MultiScaleRetention


class GraphRetention(nn.Module):
    """The parts that both graphs share.

    Queries and keys are rotated in halves, not in pairs of neighbours: slices where pairs would need strides. The rows
    of their matrices are put into that order, in which products of the two are the same. The keys' scale is in their
    matrix, and what the model divides results by is in the queries.
    """

    def __init__(self, retention: MultiScaleRetention) -> None:
        super().__init__()
        self.heads, self.key_size, self.value_size = retention.heads, retention.key_size, retention.value_size
        size, inner = self.key_size, self.heads * self.value_size
        places = torch.arange(self.heads * size).reshape(self.heads, size)
        order = torch.cat([places[:, 0::2], places[:, 1::2]], dim=1).flatten()
        parts = [
            retention.query.weight[order], retention.key.weight[order] * size**-0.5,
            retention.value.weight, retention.gate.weight,
        ]
        self.projection = nn.Linear(retention.query.in_features, 2 * self.heads * size + 2 * inner, bias=False)
        self.output = nn.Linear(inner, retention.output.out_features, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(torch.cat(parts))
            self.output.weight.copy_(retention.output.weight)
        self.norm = RMSNorm(self.value_size, retention.epsilon)  # of weights that are all one
        # [positions, 1, size]: cosines, then sines, as a row of each position that one look-up finds.
        self.turns: Tensor
        self.shares: Tensor
        self.powers: Tensor
        self.decay: Tensor
        self.register_buffer("turns", torch.cat([retention.cosines, retention.sines], dim=1))
        self.register_buffer("shares", retention.shares)
        self.register_buffer("powers", retention.powers)
        self.register_buffer("decay", retention.decay[:, None, None])

    def project(self, inputs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, of [n, width] at int32 positions [n]; values, gates.

        Returns:
            [n, heads, key size] twice, [n, heads, value size], and [n, heads * value size].
        """
        inner = self.heads * self.value_size
        both, value, gate = torch.split(
            self.projection(inputs), [2 * self.heads * self.key_size, inner, inner], dim=-1
        )
        cosines, sines = functional.embedding(positions, self.turns)[:, None, :].chunk(2, dim=-1)
        first, second = _apart(both, self.key_size).chunk(2, dim=-1)
        turned = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
        query, key = turned.chunk(2, dim=1)
        shares = functional.embedding(positions, self.shares)[:, :, None]
        return query * shares, key, _apart(value, self.value_size), gate

    def finish(self, heads: Tensor, gate: Tensor) -> Tensor:
        """Norm, gate and projection back: [n, heads, value size] -> [n, width]."""
        outputs: Tensor = self.output(functional.silu(gate) * rms_norm(self.norm, heads).flatten(1))
        return outputs


class StepRetention(GraphRetention):
    """One position of every row."""

    def forward(self, inputs: Tensor, state: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, width] at int32 positions [rows], over states [rows, heads, key size, value size].

        Returns:
            [rows, width], and the new states.
        """
        query, key, value, gate = self.project(inputs, positions)
        heads, state = retain(query, key, value, state, self.decay)
        return self.finish(heads, gate), state


class PackedRetention(GraphRetention):
    """All positions of packed targets."""

    def fading(self, length: int) -> Tensor:
        """[heads, length, length]: how much of the key at the second index is left at the first."""
        places = torch.arange(length)
        distance = places[:, None] - places[None, :]
        kept = (distance >= 0).to(torch.float32)
        return (functional.embedding(distance.clamp(min=0), self.powers) * kept[..., None]).permute(2, 0, 1)

    def forward(self, inputs: Tensor, positions: Tensor, pad_index: Tensor, pack_index: Tensor) -> Tensor:
        """[n, width] -> [n, width]; ``pad_index`` [batch, length] and ``pack_index`` [n] as the scorer has them.

        What stands at padded places comes after all that is real, and so is seen by nothing that is.
        """
        query, key, value, gate = self.project(inputs, positions)
        query, key, value = (_padded(each, pad_index) for each in (query, key, value))
        weights = torch.matmul(query, key.transpose(2, 3)) * self.fading(pad_index.shape[1])
        heads = torch.matmul(weights, value).transpose(1, 2).flatten(2).flatten(0, 1)  # [batch * length, inner]
        return self.finish(_apart(functional.embedding(pack_index, heads), self.value_size), gate)


def _apart(joined: Tensor, size: int) -> Tensor:
    """[n, heads * size] -> [n, heads, size]."""
    return joined.reshape(joined.shape[0], -1, size)


def _padded(packed: Tensor, pad_index: Tensor) -> Tensor:
    """[n, heads, size] -> [batch, heads, length, size]."""
    padded = functional.embedding(pad_index, packed.flatten(1))
    return padded.reshape(*pad_index.shape, *packed.shape[1:]).transpose(1, 2)
