"""A Transformer with the book's parameter names and arithmetic, written apart from the canonical model."""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention; scores divided by the root of the head size, invisible keys floored."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """queries [n, width], keys [m, width], visible [n, m] -> [n, width]."""
        def heads(states: Tensor) -> Tensor:
            return states.reshape(len(states), self.heads, -1).transpose(0, 1)

        query, key, value = heads(self.W_q(queries)), heads(self.W_k(keys)), heads(self.W_v(keys))
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        weights = torch.softmax(torch.where(visible, scores, torch.tensor(-1e6)), dim=-1)
        outputs: Tensor = self.W_o((weights @ value).transpose(0, 1).reshape(len(queries), -1))
        return outputs


class AddNorm(nn.Module):
    """Norm of the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Both [n, width]."""
        normed: Tensor = self.ln(outputs + inputs)
        return normed


class FeedForward(nn.Module):
    """Two layers with ReLU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        outputs: Tensor = self.dense2(torch.relu(self.dense1(states)))
        return outputs


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.attention, self.ffn = Attention(width, heads, bias), FeedForward(width, inner)
        self.addnorm1, self.addnorm2 = AddNorm(width), AddNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        seen = torch.ones(len(states), len(states), dtype=torch.bool)
        states = self.addnorm1(states, self.attention(states, states, seen))
        normed: Tensor = self.addnorm2(states, self.ffn(states))
        return normed


class DecoderBlock(nn.Module):
    """Masked self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.attention1, self.attention2 = Attention(width, heads, bias), Attention(width, heads, bias)
        self.ffn = FeedForward(width, inner)
        self.addnorm1, self.addnorm2, self.addnorm3 = AddNorm(width), AddNorm(width), AddNorm(width)

    def forward(self, states: Tensor, encoded: Tensor) -> Tensor:
        """[n, width] and [m, width] -> [n, width]."""
        length = len(states)
        past = torch.ones(length, length, dtype=torch.bool).tril()
        states = self.addnorm1(states, self.attention1(states, states, past))
        everything = torch.ones(length, len(encoded), dtype=torch.bool)
        states = self.addnorm2(states, self.attention2(states, encoded, everything))
        normed: Tensor = self.addnorm3(states, self.ffn(states))
        return normed


class Side(nn.Module):
    """Embedding and blocks of one side."""

    def __init__(self, vocabulary: int, width: int, blocks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.embedding, self.blks = nn.Embedding(vocabulary, width), nn.Sequential()
        for name, block in blocks.items():
            self.blks.add_module(name, block)

    def embed(self, ids: list[int], positions: list[int]) -> Tensor:
        """[n] -> [n, width]: scaled, plus sine at even and cosine at odd columns."""
        width = self.embedding.embedding_dim
        angles = torch.tensor(positions)[:, None] / 10000.0 ** (torch.arange(0, width, 2) / width)
        waves = torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(1)
        embedded: Tensor = self.embedding(torch.tensor(ids)) * math.sqrt(width) + waves
        return embedded


class BookModel(nn.Module):
    """Encoder and decoder under the book's names."""

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, *, width: int = 24, inner: int = 40, heads: int = 4,
        blocks: int = 2, bias: bool = False,
    ) -> None:
        super().__init__()
        names = [f"block{number}" for number in range(blocks)]
        self.encoder = Side(source_vocabulary, width, {n: EncoderBlock(width, inner, heads, bias) for n in names})
        self.decoder = Side(target_vocabulary, width, {n: DecoderBlock(width, inner, heads, bias) for n in names})
        self.decoder.add_module("dense", nn.Linear(width, target_vocabulary))

    def forward(self, source: list[int], target: list[int], positions: list[int] | None = None) -> Tensor:
        """Logits [n, vocabulary] of one unpadded pair; target positions are 0 .. n-1 unless given."""
        states = self.encoder.embed(source, list(range(len(source))))
        for block in self.encoder.blks:
            states = block(states)
        outputs = self.decoder.embed(target, positions or list(range(len(target))))
        for block in self.decoder.blks:
            outputs = block(outputs, states)
        logits: Tensor = self.decoder.get_submodule("dense")(outputs)
        return logits
