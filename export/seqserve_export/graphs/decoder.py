"""The decoder-step graph: one token per row in, the best candidates per row out, caches updated in place."""

from functools import partial

import torch
from torch import Tensor, nn

from seqserve_export.graphs.blocks import NormChain, embed, joined_projection, output_projection, padded_head_size
from seqserve_export.graphs.operators import count_up, grouped_query_attention, top_candidates
from seqserve_export.graphs.retention import StepRetention
from seqserve_export.model import Transformer
from seqserve_export.model.layers import retention as retention_of
from seqserve_export.model.layers import self_attention
from seqserve_export.model.positions import relative_bucket

CONTROLS = ("tokens", "positions", "source_lengths", "target_extent", "source_extent", "candidates")
OUTPUTS = ("log_probs", "token_ids", "logits")
SELF, RETENTION = "self", "retention"  # the states of a row: keys and values of self-attention, or what retention has


class DecoderGraph(nn.Module):
    """One incremental step for any set of rows, each at its own position and with its own source length."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        config = model.config
        self.config, self.model = config, model
        heads, padded = config.heads, padded_head_size(config.head_size)
        self.head_size = padded
        if config.decoder_mixing == "retention":
            self.retention = nn.ModuleList(StepRetention(retention_of(layer)) for layer in model.decoder)
        else:
            own = [self_attention(layer) for layer in model.decoder]
            self.qkv = nn.ModuleList(joined_projection([a.query, a.key, a.value], heads, padded) for a in own)
            self.attention_output = nn.ModuleList(output_projection(a, padded) for a in own)
        self.cross_query = nn.ModuleList(
            joined_projection([layer.cross.query], heads, padded) for layer in model.decoder
        )
        self.cross_output = nn.ModuleList(output_projection(layer.cross, padded) for layer in model.decoder)
        if config.positions == "relative":
            # Farther keys all share the last bucket: a longer table would repeat its end.
            self.reach = min(config.max_target_length - 1, config.relative_max_distance)
            distances = -torch.arange(self.reach + 1)
            bucket = relative_bucket(
                distances, bidirectional=False,
                buckets=config.relative_buckets, max_distance=config.relative_max_distance,
            )
            # [distance, heads]: the bias of a key that lies ``distance`` tokens back.
            self.bias_table: Tensor
            self.register_buffer("bias_table", model.decoder_bias(bucket).detach())

    def relative_bias(self, positions: Tensor, extent: Tensor, caches: list[Tensor]) -> Tensor | None:
        """[rows, heads, 1, extent] for T5's bias, else None."""
        if self.config.positions != "relative":
            return None
        distance = (positions[:, None] - count_up(extent, caches[0].shape[2])[None, :]).clamp(min=0, max=self.reach)
        return nn.functional.embedding(distance, self.bias_table).permute(0, 2, 1)[:, :, None, :]

    def self_attention(
        self, index: int, inputs: Tensor, caches: list[Tensor], positions: Tensor, extent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[rows, width] -> [rows, width], and the layer's grown key and value buffers."""
        packed = self.qkv[index](inputs)[:, None, :]
        heads, key, value = grouped_query_attention(
            packed, None, None, caches[2 * index], caches[2 * index + 1], positions, extent,
            heads=self.config.heads, scale=self.config.score_scale, update=True, bias=bias,
        )
        return self.attention_output[index](heads.reshape(inputs.shape[0], -1)), key, value

    def cross_attention(self, inputs: Tensor, index: int, cross: list[Tensor], last: Tensor, extent: Tensor) -> Tensor:
        """[rows, width] -> [rows, width]. The request's buffers are read only: no new keys are given.

        One query per row over a source of its own; ``places`` adds what lets the rows of a request share one.
        """
        query = self.cross_query[index](inputs)[:, None, :]
        none_new = query[:, :0, :]
        heads, _, _ = grouped_query_attention(
            query, none_new, none_new, cross[2 * index], cross[2 * index + 1], last, extent,
            heads=self.config.heads, scale=self.config.score_scale, update=False,
        )
        outputs: Tensor = self.cross_output[index](heads.reshape(inputs.shape[0], -1))
        return outputs

    def forward(
        self, tokens: Tensor, positions: Tensor, source_lengths: Tensor, target_extent: Tensor, source_extent: Tensor,
        candidates: Tensor, caches: list[Tensor], cross: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """One step.

        Args:
            tokens: int64 [rows], the last token of every row.
            positions: int32 [rows], how many tokens the row's cache already holds.
            source_lengths: int32 [rows].
            target_extent, source_extent: int32 scalars, at least the longest row and source, and at least 2.
            candidates: int64 [1], how many best tokens to return per row.
            caches: self-attention keys and values, 2 per layer, each [rows, heads, capacity, head_size]; or what
                retention remembers, 1 per layer, [rows, heads, head_size, value size].
            cross: cross-attention keys and values, 2 per layer, each [rows, heads, source capacity, head_size].

        Returns:
            Log-probabilities and ids of the best tokens, each [rows, candidates], best first, ties to the lower id;
            the logits [rows, vocabulary]; and the grown caches.
        """
        states = embed(self.model.target_embedding, tokens, positions)
        bias = self.relative_bias(positions, target_extent, caches)
        last_source = source_lengths - 1
        grown: list[Tensor] = []

        def attend(inputs: Tensor, index: int) -> Tensor:
            outputs: Tensor
            if self.config.decoder_mixing == "retention":
                outputs, state = self.retention[index](inputs, caches[index], positions)
                grown.append(state)
            else:
                outputs, key, value = self.self_attention(index, inputs, caches, positions, target_extent, bias)
                grown.extend((key, value))
            return outputs

        layers = list(self.model.decoder)
        chain = NormChain(layers[0].attention_norm, states)
        for index, layer in enumerate(layers):
            after = layers[index + 1].attention_norm.norm if index + 1 < len(layers) else self.model.decoder_norm
            across = partial(self.cross_attention, index=index, cross=cross, last=last_source, extent=source_extent)
            chain.run(partial(attend, index=index), layer.attention_norm, layer.cross_norm.norm)
            chain.run(across, layer.cross_norm, layer.ffn_norm.norm)
            chain.run(layer.ffn, layer.ffn_norm, after)
        logits = self.model.project(chain.finish(self.model.decoder_norm))
        log_probs, token_ids = top_candidates(torch.log_softmax(logits, dim=-1), candidates)
        return log_probs, token_ids, logits, grown
