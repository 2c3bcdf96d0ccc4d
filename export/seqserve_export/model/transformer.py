"""The encoder-decoder: embeddings and positions, two stacks, output projection. Trains, and decodes with a cache."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqserve_export.model.canonical import CanonicalModel
from seqserve_export.model.config import TransformerConfig
from seqserve_export.model.layers import DecoderLayer, EncoderLayer, KeysValues, Past, Stack, make_norm
from seqserve_export.model.positions import relative_bucket, sinusoid_table


@dataclass
class DecoderState:
    """What decoding one batch needs besides its last tokens: source side fixed, target side advancing."""

    cross: list[KeysValues]
    source_visible: Tensor
    past: list[Past | None]
    position: int = 0


class Embedding(nn.Module):
    """Token embedding, scaled, plus positions, normalised if the family does so."""

    def __init__(self, config: TransformerConfig, tokens: nn.Embedding, max_length: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.scale, self.offset = config.embedding_scale, config.position_offset
        rows = max_length + config.position_offset
        if config.positions == "learned":
            self.positions: Tensor | None = nn.Parameter(torch.randn(rows, config.width) * config.width**-0.5)
        elif config.positions == "sinusoidal":
            with torch.device("cpu"):  # computed, so there even where parameters are still to come
                table = sinusoid_table(rows, config.width, config.sinusoid_order)
            self.register_buffer("positions", table, persistent=False)
        else:
            self.positions = None
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """ids [batch, length] at positions start.. -> [batch, length, width]."""
        states = self.tokens(ids) * self.scale
        if self.positions is not None:
            first = start + self.offset
            states = states + self.positions[first : first + ids.shape[1]]
        outputs: Tensor = self.dropout(self.norm(states))
        return outputs


class Transformer(CanonicalModel):
    """Encoder-decoder Transformer. The names of its parameters are those of a ``native`` checkpoint."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        source = nn.Embedding(config.source_vocab_size, config.width)
        target = source if config.shared_embeddings else nn.Embedding(config.target_vocab_size, config.width)
        self.source_embedding = Embedding(config, source, config.max_source_length)
        self.target_embedding = Embedding(config, target, config.max_target_length)
        self.encoder = Stack[EncoderLayer](EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = Stack[DecoderLayer](DecoderLayer(config) for _ in range(config.decoder_layers))
        self.encoder_norm = make_norm(config) if config.final_norm else nn.Identity()
        self.decoder_norm = make_norm(config) if config.final_norm else nn.Identity()
        if config.positions == "relative":
            self.encoder_bias = nn.Embedding(config.relative_buckets, config.heads)
            self.decoder_bias = nn.Embedding(config.relative_buckets, config.heads)
        self.output = nn.Linear(config.width, config.target_vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.target_vocab_size)) if config.output_bias else None
        self.tie()

    @classmethod
    def without_values(cls, config: TransformerConfig) -> "Transformer":
        """A model whose parameters take no memory until they are given (``torch.nn.Module`` calls that "meta")."""
        with torch.device("meta"):
            return cls(config)

    def tie(self) -> None:
        """Make the output projection the target embedding where the configuration says so."""
        if self.config.tied_output:
            self.output.weight = self.target_embedding.tokens.weight

    def relative_scores(self, queries: Tensor, keys: Tensor, *, encoder: bool) -> Tensor | None:
        """Bias [1, heads, queries, keys] on self-attention scores from absolute positions, or None."""
        if self.config.positions != "relative":
            return None
        bucket = relative_bucket(
            keys[None, :] - queries[:, None], bidirectional=encoder,
            buckets=self.config.relative_buckets, max_distance=self.config.relative_max_distance,
        )
        table = self.encoder_bias if encoder else self.decoder_bias
        bias: Tensor = table(bucket).permute(2, 0, 1)[None]
        return bias

    def encode(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Encoder states [batch, length, width] of padded ids [batch, length] with valid lengths [batch]."""
        places = torch.arange(source.shape[1], device=source.device)
        visible = (places[None, :] < lengths[:, None])[:, None, None, :]
        bias = self.relative_scores(places, places, encoder=True)
        states: Tensor = self.source_embedding(source)
        for layer in self.encoder:
            states = layer(states, visible, bias)
        states = self.encoder_norm(states)
        return states

    def encoder_states(self, source: Tensor, lengths: Tensor) -> Tensor:
        """What ``encode`` returns is just these."""
        return self.encode(source, lengths)

    def begin(self, encoded: Tensor, lengths: Tensor) -> DecoderState:
        """State before the first target token: the keys and values of cross-attention, computed once per source."""
        places = torch.arange(encoded.shape[1], device=encoded.device)
        return DecoderState(
            cross=[layer.cross.keys_values(encoded) for layer in self.decoder],
            source_visible=(places[None, :] < lengths[:, None])[:, None, None, :],
            past=[None] * len(self.decoder),
        )

    def decoder_states(self, target: Tensor, state: DecoderState) -> Tensor:
        """Decoder output [batch, new, width] of new target tokens [batch, new]; advances ``state`` by them.

        One call with a whole prefix is teacher forcing; calls of one token each are incremental decoding. Both run
        these lines, so the cache is tested against its absence.
        """
        new, start = target.shape[1], state.position
        keys = torch.arange(start + new, device=target.device)
        queries = keys[start:]
        visible = (keys[None, :] <= queries[:, None])[None, None]
        bias = self.relative_scores(queries, keys, encoder=False)
        states = self.target_embedding(target, start)
        for index, layer in enumerate(self.decoder):
            states, state.past[index] = layer(
                states, state.cross[index], state.source_visible, visible, bias, start, state.past[index]
            )
        state.position = start + new
        normed: Tensor = self.decoder_norm(states)
        return normed

    def project(self, states: Tensor) -> Tensor:
        """Vocabulary logits [..., vocabulary] of decoder states [..., width]."""
        logits: Tensor = self.output(states * self.config.output_scale)
        return logits if self.output_bias is None else logits + self.output_bias
