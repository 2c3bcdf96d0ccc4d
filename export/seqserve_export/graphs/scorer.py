"""The scorer graph: what the decoder thinks of given targets, all tokens of them in one pass."""

from functools import partial

import torch
from torch import Tensor, nn

from seqserve_export.graphs.blocks import NormChain, embed, joined_projection, output_projection, padded_head_size
from seqserve_export.graphs.operators import multi_head_attention
from seqserve_export.graphs.retention import PackedRetention
from seqserve_export.model import Transformer
from seqserve_export.model.layers import retention as retention_of
from seqserve_export.model.layers import self_attention
from seqserve_export.model.positions import relative_bucket

INPUTS = (
    "tokens", "positions", "wanted", "pad_index", "pack_index", "source_lengths", "source_pad_index", "cross",
)
OUTPUTS = ("log_probs", "alignment")
# Added to scores of positions that may not be seen: far below any score, and no infinity, whose differences are NaN.
UNSEEN = -1e30


class ScorerGraph(nn.Module):
    """The decoder over whole targets. Linear layers see real tokens only, attention padded sequences, as the encoder's.

    Its matrices are those of the step graph, entry for entry, so that a bundle stores them once.

    Args:
        layer, heads: Whose cross-attention is the alignment: the mean of these heads of this layer, from 0.
    """

    def __init__(self, model: Transformer, layer: int, heads: tuple[int, ...]) -> None:
        super().__init__()
        config = model.config
        self.config, self.model, self.layer = config, model, layer
        self.head_size = padded = padded_head_size(config.head_size)
        count = config.heads
        if config.decoder_mixing == "retention":
            self.retention = nn.ModuleList(PackedRetention(retention_of(layer)) for layer in model.decoder)
        else:
            own = [self_attention(layer) for layer in model.decoder]
            self.qkv = nn.ModuleList(joined_projection([a.query, a.key, a.value], count, padded) for a in own)
            self.attention_output = nn.ModuleList(output_projection(a, padded) for a in own)
        self.cross_query = nn.ModuleList(
            joined_projection([layer.cross.query], count, padded) for layer in model.decoder
        )
        self.cross_output = nn.ModuleList(output_projection(layer.cross, padded) for layer in model.decoder)
        chosen = torch.zeros(count)
        chosen[list(heads)] = 1 / len(heads)
        self.chosen: Tensor
        self.register_buffer("chosen", chosen.reshape(1, count, 1, 1))
        if config.positions == "relative":
            self.reach = min(config.max_target_length - 1, config.relative_max_distance)
            bucket = relative_bucket(
                -torch.arange(self.reach + 1), bidirectional=False,
                buckets=config.relative_buckets, max_distance=config.relative_max_distance,
            )
            self.bias_table: Tensor
            self.register_buffer("bias_table", model.decoder_bias(bucket).detach())

    def look_back(self, length: int) -> Tensor:
        """[1, 1 or heads, length, length]: what is added to scores, so that no token sees one behind it."""
        places = torch.arange(length)
        distance = places[:, None] - places[None, :]
        unseen = (distance < 0).to(torch.float32) * UNSEEN
        if self.config.positions != "relative":
            return unseen[None, None]
        bias = nn.functional.embedding(distance.clamp(min=0, max=self.reach), self.bias_table)
        return bias.permute(2, 0, 1)[None] + unseen

    def mix(
        self, inputs: Tensor, index: int, positions: Tensor, pad_index: Tensor, pack_index: Tensor, bias: Tensor
    ) -> Tensor:
        """Self-attention or retention of one layer: packed [tokens, width] -> packed [tokens, width]."""
        if self.config.decoder_mixing == "retention":
            retained: Tensor = self.retention[index](inputs, positions, pad_index, pack_index)
            return retained
        inner = self.config.heads * self.head_size
        padded = nn.functional.embedding(pad_index, self.qkv[index](inputs))
        query, key, value = torch.split(padded, inner, dim=-1)
        heads = multi_head_attention(
            query, key, value, None, heads=self.config.heads, scale=self.config.score_scale, bias=bias
        )
        outputs: Tensor = self.attention_output[index](_packed(heads, pack_index))
        return outputs

    def across(
        self, inputs: Tensor, index: int, pad_index: Tensor, pack_index: Tensor, cross: list[Tensor],
        source_lengths: Tensor, weights: list[Tensor],
    ) -> Tensor:
        """Cross-attention of one layer; of the alignment's, its weights are appended to ``weights``."""
        query = nn.functional.embedding(pad_index, self.cross_query[index](inputs))
        key, value = cross[2 * index], cross[2 * index + 1]  # [batch, source, heads * head_size]
        heads = multi_head_attention(
            query, key, value, source_lengths, heads=self.config.heads, scale=self.config.score_scale
        )
        if index == self.layer:
            weights.append(self.weights(query, key, source_lengths))
        outputs: Tensor = self.cross_output[index](_packed(heads, pack_index))
        return outputs

    def weights(self, query: Tensor, key: Tensor, source_lengths: Tensor) -> Tensor:
        """[batch, length, source]: the softmax that the attention operator keeps to itself, mean of the heads."""
        count, size = self.config.heads, self.head_size
        queries = query.reshape(*query.shape[:2], count, size).permute(0, 2, 1, 3)
        keys = key.reshape(*key.shape[:2], count, size).permute(0, 2, 3, 1)
        scores = torch.matmul(queries, keys) * self.config.score_scale
        unseen = (torch.arange(key.shape[1])[None, :] >= source_lengths[:, None]).to(torch.float32) * UNSEEN
        return (torch.softmax(scores + unseen[:, None, None, :], dim=-1) * self.chosen).sum(dim=1)

    def forward(
        self, tokens: Tensor, positions: Tensor, wanted: Tensor, pad_index: Tensor, pack_index: Tensor,
        source_lengths: Tensor, source_pad_index: Tensor, cross: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score packed targets.

        Args:
            tokens: int64 [n], what the decoder is fed, one target after the other: all but the last token of each.
            positions: int32 [n], each token's place in its target.
            wanted: int64 [n], the token after each.
            pad_index: int64 [batch, length], where in ``tokens`` each padded place is found (padding: anywhere).
            pack_index: int64 [n], where in the flattened padded batch each token stands.
            source_lengths: int32 [batch].
            source_pad_index: int64 [batch, source], where in ``cross`` each padded place of a source is found.
            cross: [2 * layers, heads, m, head_size], as the encoder graph gives it for the packed sources.

        Returns:
            Log-probability [n] of each wanted token, and the attention [n, source] that was paid for it.
        """
        states = embed(self.model.target_embedding, tokens, positions)
        bias = self.look_back(pad_index.shape[1])
        joined = cross.permute(0, 2, 1, 3).flatten(2)  # [2 * layers, m, heads * head_size]
        gathered = [
            nn.functional.embedding(source_pad_index, joined[number]) for number in range(2 * len(self.model.decoder))
        ]
        weights: list[Tensor] = []
        layers = list(self.model.decoder)
        chain = NormChain(layers[0].attention_norm, states)
        for index, layer in enumerate(layers):
            after = layers[index + 1].attention_norm.norm if index + 1 < len(layers) else self.model.decoder_norm
            mix = partial(
                self.mix, index=index, positions=positions, pad_index=pad_index, pack_index=pack_index, bias=bias
            )
            across = partial(
                self.across, index=index, pad_index=pad_index, pack_index=pack_index, cross=gathered,
                source_lengths=source_lengths, weights=weights,
            )
            chain.run(mix, layer.attention_norm, layer.cross_norm.norm)
            chain.run(across, layer.cross_norm, layer.ffn_norm.norm)
            chain.run(layer.ffn, layer.ffn_norm, after)
        logits = self.model.project(chain.finish(self.model.decoder_norm))
        # As in the step graph. The runtime's ReduceLogSumExp would need no second copy, and is ten times less exact.
        log_probs = torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None])[:, 0]
        return log_probs, _packed(weights[0], pack_index)


def _packed(padded: Tensor, pack_index: Tensor) -> Tensor:
    """[batch, length, size] -> [n, size]."""
    return nn.functional.embedding(pack_index, padded.flatten(0, 1))
