"""Multi-scale retention: attention without softmax whose past is one matrix per head, in its two forms.

Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language Models", section 2, with the
normalisations of its public implementation (torchscale). What head h sees of the token i places back fades as
``gamma_h^i``; queries and keys are rotated by their positions, so that a product of two depends on their distance.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqserve_export.model.config import TransformerConfig


def log_decays(heads: int) -> Tensor:
    """float64 [heads]: ``ln(gamma_h)`` with ``gamma_h = 1 - 2^(-5-h)``; equation 8 of the paper."""
    return torch.log1p(-torch.exp2(-5.0 - torch.arange(heads, dtype=torch.float64)))


def rotation_tables(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each float32 [length, size / 2], of the angles ``p / 10000^(i / (size/2 - 1))``.

    The rates of the public implementation: they reach 1 / 10000, where those of rotary embeddings end one step before.
    """
    rates = torch.exp(torch.linspace(0, 1, size // 2, dtype=torch.float64) * -math.log(10000.0))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cos(angles).float(), torch.sin(angles).float()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of neighbouring components by its angle: [..., length, size] with tables [length, size / 2]."""
    first, second = states[..., 0::2], states[..., 1::2]
    turned = torch.stack((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return turned.flatten(-2)


def parallel_retention(query: Tensor, key: Tensor, value: Tensor, powers: Tensor, shares: Tensor) -> Tensor:
    """``((Q K^T) * D) V``, all positions of a sequence at once; equation 5.

    ``D[n, m] = gamma^(n-m) / sqrt(sum over i <= n of gamma^i)`` for m <= n, else 0. The denominator keeps the size of
    results independent of n. The public implementation divides each row of ``Q K^T * D`` once more, by its sum; a
    norm follows that takes no notice of such factors, and in the recurrent form it could not be had.

    Args:
        query, key: [batch, heads, length, key size], rotated.
        value: [batch, heads, length, value size].
        powers: [at least length, heads], ``gamma^i``.
        shares: [at least length, heads], ``1 / sqrt(sum over i <= n of gamma^i)``.

    Returns:
        [batch, heads, length, value size].
    """
    length = query.shape[2]
    places = torch.arange(length, device=query.device)
    distance = places[:, None] - places[None, :]
    fading = powers[distance.clamp(min=0)].masked_fill((distance < 0)[..., None], 0.0) * shares[:length, None]
    return torch.matmul(torch.matmul(query, key.transpose(-1, -2)) * fading.permute(2, 0, 1), value)


def retained(key: Tensor, value: Tensor, powers: Tensor) -> Tensor:
    """The state after the last position, [batch, heads, key size, value size]; arguments as ``parallel_retention``."""
    fading = powers[: key.shape[2]].flip(0).T[..., None]  # [heads, length, 1]: the first has faded the most
    return torch.matmul((key * fading).transpose(-1, -2), value)


def recurrent_retention(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor, decay: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """``S' = gamma S + k^T v`` and ``q S' / sqrt(sum over i <= n of gamma^i)``, one position; equation 6.

    The state is kept without the denominator. It is a sum of products that fade, so it is bounded by the largest of
    them times ``1 / (1 - gamma)`` however long the sequence.

    Args:
        query, key: [batch, heads, key size], rotated.
        value: [batch, heads, value size].
        state: [batch, heads, key size, value size].
        decay, share: [heads].

    Returns:
        [batch, heads, value size], and the new state.
    """
    state = state * decay[:, None, None] + key[..., :, None] * value[..., None, :]
    return torch.matmul(query[..., None, :], state)[..., 0, :] * share[:, None], state


class MultiScaleRetention(nn.Module):
    """Projections into heads, retention, a norm per head, the gate ``silu(W_g x)``, and the projection back.

    The norm is the root mean square alone, without weights, as in the public implementation (the paper says
    GroupNorm). No projection has a bias. Tables reach ``max_target_length`` positions.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.key_size, self.value_size = config.heads, config.head_size, config.value_size
        self.epsilon = config.norm_epsilon
        keys, values = self.heads * self.key_size, self.heads * self.value_size
        self.query = nn.Linear(config.width, keys, bias=False)
        self.key = nn.Linear(config.width, keys, bias=False)
        self.value = nn.Linear(config.width, values, bias=False)
        self.gate = nn.Linear(config.width, values, bias=False)
        self.output = nn.Linear(values, config.width, bias=False)
        with torch.device("cpu"):  # computed, so there even where parameters are still to come
            cosines, sines = rotation_tables(config.max_target_length, self.key_size)
            logs = log_decays(self.heads)
            places = torch.arange(config.max_target_length, dtype=torch.float64)[:, None]
            sums = torch.expm1((places + 1) * logs) / torch.expm1(logs)
        self.decay: Tensor
        self.cosines: Tensor
        self.sines: Tensor
        self.powers: Tensor
        self.shares: Tensor
        self.register_buffer("decay", torch.exp(logs).float(), persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.register_buffer("powers", torch.exp(places * logs).float(), persistent=False)
        self.register_buffer("shares", sums.rsqrt().float(), persistent=False)

    def split(self, projected: Tensor, size: int) -> Tensor:
        """[batch, length, heads * size] -> [batch, heads, length, size]."""
        batch, length, _ = projected.shape
        return projected.view(batch, length, self.heads, size).transpose(1, 2)

    def forward(self, states: Tensor, start: int, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Retain new positions: in parallel where nothing came before them, else one by one.

        Args:
            states: [batch, new, width].
            start: position of the first of them.
            past: the state [batch, heads, key size, value size] of the positions before, or None at position 0.

        Returns:
            [batch, new, width], and the state after them.
        """
        new = states.shape[1]
        cosines, sines = self.cosines[start : start + new], self.sines[start : start + new]
        query = rotate(self.split(self.query(states), self.key_size), cosines, sines)
        key = rotate(self.split(self.key(states), self.key_size), cosines, sines) * self.key_size**-0.5
        value = self.split(self.value(states), self.value_size)
        if past is None:
            heads = parallel_retention(query, key, value, self.powers, self.shares)
            state = retained(key, value, self.powers)
        else:
            heads, state = self._one_by_one(query, key, value, start, past)
        normed = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + self.epsilon)
        joined = normed.transpose(1, 2).flatten(2)
        outputs: Tensor = self.output(functional.silu(self.gate(states)) * joined)
        return outputs, state

    def _one_by_one(
        self, query: Tensor, key: Tensor, value: Tensor, start: int, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps: list[Tensor] = []
        for place in range(query.shape[2]):
            step, state = recurrent_retention(
                query[:, :, place], key[:, :, place], value[:, :, place], state,
                self.decay, self.shares[start + place],
            )
            steps.append(step)
        return torch.stack(steps, dim=2), state
