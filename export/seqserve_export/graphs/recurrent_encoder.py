"""The recurrent encoder's graph: packed source tokens in, what decoding needs of them out."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqserve_export.graphs.recurrent_blocks import key_projection
from seqserve_export.model.recurrent import RecurrentSeq2Seq


def recurrent_layer(inputs: Tensor, weights: tuple[Tensor, Tensor, Tensor], lengths: Tensor, size: int) -> list[Tensor]:
    """The runtime's GRU over padded sequences [length, batch, width], each read up to its own end.

    Whose sums depend on the sequence alone: the same bits in any batch, and however far it is padded.

    Args:
        weights: Those of ``ordered_weights``.
        size: Of one direction.

    Returns:
        [length, directions, batch, size], and the last states [directions, batch, size].
    """
    directions = weights[0].shape[0]
    length, batch = inputs.shape[:2]
    return list(torch.onnx.ops.symbolic_multi_out(
        "GRU", (inputs, *weights, lengths),
        {"hidden_size": size, "linear_before_reset": 1, "direction": "forward" if directions == 1 else "bidirectional"},
        dtypes=[inputs.dtype] * 2, shapes=[(length, directions, batch, size), (directions, batch, size)], version=14,
    ))


def ordered_weights(units: nn.GRU, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's in the order of ONNX, gates z, r, n where PyTorch has r, z, n; [directions, ...]."""
    def stacked(name: str) -> Tensor:
        suffixes = ("", "_reverse") if units.bidirectional else ("",)
        found = [getattr(units, f"{name}_l{layer}{suffix}").detach() for suffix in suffixes]
        parts = [each.chunk(3) for each in found]
        return torch.stack([torch.cat([update, reset, new]) for reset, update, new in parts])

    biases = torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1)
    return stacked("weight_ih"), stacked("weight_hh"), biases


class RecurrentEncoderGraph(nn.Module):
    """Encodes several sources at once."""

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        super().__init__()
        self.config, self.model = model.config, model
        self.keys = key_projection(model.attention)
        self.layers = [
            [self._kept(f"{layer}.{part}", weight) for part, weight in enumerate(ordered_weights(model.encoder, layer))]
            for layer in range(model.config.encoder_layers)
        ]

    def _kept(self, name: str, weight: Tensor) -> str:
        """A name under which a weight is the graph's."""
        name = f"gru_{name.replace('.', '_')}"
        self.register_buffer(name, weight)
        return name

    def padded(self, embedded: Tensor, pad_index: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences [length, batch, width] to read, and how far, int32 [batch]."""
        inputs = functional.embedding(pad_index.transpose(0, 1), embedded)
        least = self.config.padded_source_length
        if least == 0:
            return inputs, lengths
        padding = self.model.source_embedding.tokens.weight[self.config.source_pad_id]
        real = torch.arange(pad_index.shape[1])[:, None] < lengths[None, :]
        inputs = torch.where(real[:, :, None], inputs, padding)
        more = padding.expand(least, inputs.shape[1], -1)
        return torch.cat([inputs, more]), lengths.clamp(min=least)

    def forward(
        self, tokens: Tensor, positions: Tensor, lengths: Tensor, pad_index: Tensor, pack_index: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode packed sources.

        Args:
            tokens: int64 [n], the sources one after the other.
            positions: int32 [n], not looked at.
            lengths: int32 [batch].
            pad_index: int64 [batch, length], where in ``tokens`` each padded place is found (padding: anywhere).
            pack_index: int64 [n], where in the flattened padded batch each token stands.

        Returns:
            Encoder states [n, hidden]; the decoder's first hidden layers [layers, batch, hidden]; the states once more
            as values [1, n, hidden]; and, where states are not compared themselves, keys [1, n, key width].
        """
        del positions
        embedded = self.model.source_embedding.tokens(tokens)
        states, read = self.padded(embedded, pad_index, lengths)
        directions = 2 if self.config.bidirectional else 1
        last = []
        for names in self.layers:
            weights = (self.get_buffer(names[0]), self.get_buffer(names[1]), self.get_buffer(names[2]))
            outputs, ends = recurrent_layer(states, weights, read, self.config.hidden_width // directions)
            states = outputs.permute(0, 2, 1, 3).flatten(2)  # both directions side by side
            last.append(ends.permute(1, 0, 2).flatten(1))
        by_source = states[: pad_index.shape[1]].transpose(0, 1)
        packed = functional.embedding(pack_index, by_source.flatten(0, 1))
        hidden = torch.stack(last[self.config.encoder_layers - self.config.decoder_layers :])
        keys = () if self.keys is None else (self.keys(packed)[None],)
        # Addition of nothing: an output of the graph has a name of its own.
        return packed, hidden, (packed + 0.0)[None], *keys
