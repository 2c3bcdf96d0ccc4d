"""The encoder graph: packed source tokens in, keys and values of every cross-attention out."""

from functools import partial

import torch
from torch import Tensor, nn

from seqserve_export.graphs.blocks import NormChain, embed, joined_projection, padded_head_size
from seqserve_export.graphs.operators import multi_head_attention
from seqserve_export.model import Transformer
from seqserve_export.model.layers import EncoderLayer
from seqserve_export.model.positions import relative_bucket

INPUTS = ("tokens", "positions", "lengths", "pad_index", "pack_index")
OUTPUTS = ("states", "cross")


class EncoderGraph(nn.Module):
    """Encodes several sources at once. Linear layers see real tokens only; attention sees padded sequences.

    Packing keeps padding out of nine tenths of the work. It changes no bits: the matrix products of the CPU runtime
    give a row the same result in any batch, and padded keys are masked in a length that is a multiple of 16.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        config = model.config
        self.config, self.model = config, model
        self.head_size = padded_head_size(config.head_size)
        self.qkv = nn.ModuleList(
            joined_projection([a.query, a.key, a.value], config.heads, config.head_size)
            for a in (layer.attention for layer in model.encoder)
        )
        projections = [p for layer in model.decoder for p in (layer.cross.key, layer.cross.value)]
        self.cross = joined_projection(projections, config.heads, self.head_size)
        if config.positions == "relative":
            # Farther keys all share the last bucket: a longer table would repeat its ends.
            self.reach = min(config.max_source_length, config.relative_max_distance)
            bucket = relative_bucket(
                torch.arange(-self.reach, self.reach + 1), bidirectional=True,
                buckets=config.relative_buckets, max_distance=config.relative_max_distance,
            )
            # [distance + reach, heads]: a table, so that no logarithm is computed at run time.
            self.bias_table: Tensor
            self.register_buffer("bias_table", model.encoder_bias(bucket).detach())

    def relative_bias(self, pad_index: Tensor) -> Tensor | None:
        """[1, heads, length, length] for T5's bias, else None."""
        if self.config.positions != "relative":
            return None
        places = torch.arange(pad_index.shape[1])
        distance = (places[None, :] - places[:, None]).clamp(-self.reach, self.reach)
        return nn.functional.embedding(distance + self.reach, self.bias_table).permute(2, 0, 1)[None]

    def attend(
        self, inputs: Tensor, layer: EncoderLayer, index: int, lengths: Tensor, pad_index: Tensor, pack_index: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Self-attention of one layer: packed [tokens, width] -> packed [tokens, width]."""
        batch, length = pad_index.shape
        inner = self.config.heads * self.config.head_size
        padded = nn.functional.embedding(pad_index, self.qkv[index](inputs))
        query, key, value = torch.split(padded, inner, dim=-1)
        heads = multi_head_attention(
            query, key, value, lengths, heads=self.config.heads, scale=self.config.score_scale, bias=bias
        )
        packed = nn.functional.embedding(pack_index, heads.reshape(batch * length, inner))
        outputs: Tensor = layer.attention.output(packed)
        return outputs

    def forward(
        self, tokens: Tensor, positions: Tensor, lengths: Tensor, pad_index: Tensor, pack_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode packed sources.

        Args:
            tokens: int64 [n], the sources one after the other.
            positions: int32 [n], each token's place in its source.
            lengths: int32 [batch].
            pad_index: int64 [batch, length], where in ``tokens`` each padded place is found (padding: anywhere).
            pack_index: int64 [n], where in the flattened padded batch each token stands.

        Returns:
            Encoder states [n, width]; cross-attention keys and values [2 * layers, heads, n, head_size], keys at even
            and values at odd indices.
        """
        states = embed(self.model.source_embedding, tokens, positions)
        bias = self.relative_bias(pad_index)
        layers = list(self.model.encoder)
        chain = NormChain(layers[0].attention_norm, states)
        for index, layer in enumerate(layers):
            after = layers[index + 1].attention_norm.norm if index + 1 < len(layers) else self.model.encoder_norm
            attend = partial(
                self.attend, layer=layer, index=index, lengths=lengths, pad_index=pad_index, pack_index=pack_index,
                bias=bias,
            )
            chain.run(attend, layer.attention_norm, layer.ffn_norm.norm)
            chain.run(layer.ffn, layer.ffn_norm, after)
        encoded = chain.finish(self.model.encoder_norm)
        cross = self.cross(encoded).view(encoded.shape[0], -1, self.config.heads, self.head_size)
        return encoded, cross.permute(1, 2, 0, 3)
