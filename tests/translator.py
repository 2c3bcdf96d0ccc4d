"""What people build around ``torch.nn.Transformer``: scaled embeddings, added positions, an output layer."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seqserve_export.model.positions import sinusoid_table


class Translator(nn.Module):
    """Encoder and decoder are PyTorch's, called as its tutorials call them."""

    def __init__(
        self, *, stored_positions: bool = False, tied: bool = False, width: int = 24, heads: int = 4, inner: int = 40,
        layers: tuple[int, int] = (2, 3), entries: tuple[int, int] = (25, 31), rows: int = 60, **options: Any,
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.transformer = nn.Transformer(
            width, heads, num_encoder_layers=layers[0], num_decoder_layers=layers[1], dim_feedforward=inner,
            batch_first=True, **options,
        )
        self.source, self.target = nn.Embedding(entries[0], width), nn.Embedding(entries[1], width)
        self.generator = nn.Linear(width, entries[1], bias=not tied)
        if tied:
            self.generator.weight = self.target.weight
        table = sinusoid_table(rows, width, "interleaved")
        if stored_positions:
            table = torch.randn(rows, 1, width) * 0.1
        self.register_buffer("table", table, persistent=stored_positions)

    def forward(self, source: list[int], target: list[int]) -> Tensor:
        """Logits [len(target), vocabulary] of one unpadded pair."""
        logits: Tensor = self.batch(torch.tensor([source]), torch.tensor([target]))[0]
        return logits

    def batch(self, source: Tensor, target: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits [batch, m, vocabulary] of ids [batch, n] and [batch, m]; ``padding`` [batch, n] is true on padding."""
        def embed(table: nn.Embedding, ids: Tensor) -> Tensor:
            rows = self.get_buffer("table").reshape(-1, table.embedding_dim)[: ids.shape[1]]
            embedded: Tensor = table(ids) * self.scale + rows
            return embedded

        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        states = self.transformer(
            embed(self.source, source), embed(self.target, target), tgt_mask=future, src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits: Tensor = self.generator(states)
        return logits
