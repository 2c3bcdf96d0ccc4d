"""The book's recurrent encoder and attending decoder under its parameter names, gate by gate and row by row."""

import torch
from torch import Tensor, nn

LAYERS = 2


class Units(nn.Module):
    """Gated recurrent units with the parameters of ``nn.GRU``: reset, update and candidate, in this order."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        for layer in range(LAYERS):
            for part, width in (("ih", inputs if layer == 0 else hidden), ("hh", hidden)):
                self.register_parameter(f"weight_{part}_l{layer}", nn.Parameter(torch.randn(3 * hidden, width) * 0.4))
                self.register_parameter(f"bias_{part}_l{layer}", nn.Parameter(torch.randn(3 * hidden) * 0.4))

    def step(self, inputs: Tensor, states: list[Tensor]) -> list[Tensor]:
        """One token [inputs] through all layers; the new state [hidden] of each."""
        new = []
        for layer, state in enumerate(states):
            given = self.get_parameter(f"weight_ih_l{layer}") @ inputs + self.get_parameter(f"bias_ih_l{layer}")
            kept = self.get_parameter(f"weight_hh_l{layer}") @ state + self.get_parameter(f"bias_hh_l{layer}")
            reset, update = torch.sigmoid(given[: 2 * self.hidden] + kept[: 2 * self.hidden]).chunk(2)
            candidate = torch.tanh(given[2 * self.hidden :] + reset * kept[2 * self.hidden :])
            inputs = (1 - update) * candidate + update * state
            new.append(inputs)
        return new

    def zeros(self) -> list[Tensor]:
        """States before the first token."""
        return [torch.zeros(self.hidden) for _ in range(LAYERS)]


class Attention(nn.Module):
    """Additive attention of one query over the valid states of one source."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W_k, self.W_q = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.w_v = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, states: list[Tensor]) -> Tensor:
        """[hidden] and the states, [hidden] each -> [hidden]."""
        scores = torch.stack([self.w_v(torch.tanh(self.W_q(query) + self.W_k(state)))[0] for state in states])
        weights = torch.exp(scores - scores.max())
        return sum((w * s for w, s in zip(weights / weights.sum(), states, strict=True)), torch.zeros(len(query)))


class RecurrentBook(nn.Module):
    """Encoder and decoder; ``wrapped`` names the encoder's units as the book's later edition does."""

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, *, embedding: int = 7, hidden: int = 10,
        wrapped: bool = True,
    ) -> None:
        super().__init__()
        units = Units(embedding, hidden)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embedding = nn.Embedding(source_vocabulary, embedding)
        self.encoder.rnn = nn.ModuleDict({"rnn": units}) if wrapped else units
        self.decoder.attention = Attention(hidden)
        self.decoder.embedding = nn.Embedding(target_vocabulary, embedding)
        self.decoder.rnn = Units(embedding + hidden, hidden)
        self.decoder.dense = nn.Linear(hidden, target_vocabulary)
        self._encoder_units = [units]  # in a list, so that they are registered once

    def forward(self, source: list[int], target: list[int], padding: list[int] | None = None) -> Tensor:
        """Logits [n, vocabulary] of one pair, whose source the book's batch has padded with ``padding``."""
        states, outputs = self._encoder_units[0].zeros(), []
        for token in [*source, *(padding or [])]:
            states = self._encoder_units[0].step(self.encoder.embedding.weight[token], states)  # type: ignore[union-attr, index]
            outputs.append(states[-1])
        logits = []
        for token in target:
            context = self.decoder.attention(states[-1], outputs[: len(source)])  # type: ignore[operator]
            embedded = self.decoder.embedding.weight[token]  # type: ignore[union-attr, index]
            states = self.decoder.rnn.step(torch.cat([context, embedded]), states)  # type: ignore[union-attr, operator]
            logits.append(self.decoder.dense(states[-1]))  # type: ignore[operator]
        return torch.stack(logits)
