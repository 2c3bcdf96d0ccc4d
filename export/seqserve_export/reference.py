"""Greedy decoding with the PyTorch model, written to be read: what the exported bundle has to reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqserve_export.model import Transformer

Sources = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Decoded:
    """One source, decoded greedily.

    Attributes:
        token_ids: Without start and end token.
        log_probs: One per generated token, the end token included.
        logits: float32 [generated, vocabulary], those that each token was chosen from.
        finish_reason: "eos", or "length" when the limit came first.
    """

    token_ids: list[int]
    log_probs: list[float]
    logits: NDArray[np.float32]
    finish_reason: str


def pad(sources: Sources, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids [batch, longest] and valid lengths [batch] of complete sources."""
    lengths = torch.tensor([len(source) for source in sources])
    ids = torch.full((len(sources), int(lengths.max())), pad_id)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = torch.tensor(source)
    return ids, lengths


@torch.no_grad()
def encoder_states(model: Transformer, sources: Sources) -> list[NDArray[np.float32]]:
    """Encoder output [length, width] of every source."""
    ids, lengths = pad(sources, model.config.pad_id)
    states = model.encode(ids, lengths)
    return [row[:length].numpy() for row, length in zip(states, lengths.tolist(), strict=True)]


@torch.no_grad()
def step_logits(model: Transformer, sources: Sources, targets: Sources) -> list[NDArray[np.float32]]:
    """Teacher-forced logits [target length, vocabulary]: row i is what the model thinks of target position i."""
    start, pad_id = model.config.decoder_start_id, model.config.pad_id
    fed, _ = pad([[start, *target[:-1]] for target in targets], pad_id)
    logits = model(*pad(sources, pad_id), fed)
    return [row[: len(target)].numpy() for row, target in zip(logits, targets, strict=True)]


@torch.no_grad()
def greedy(
    model: Transformer, sources: Sources, max_new_tokens: int, min_new_tokens: int = 0, *, cache: bool = True
) -> list[Decoded]:
    """Decode a batch of complete sources, each until its end token or ``max_new_tokens`` tokens.

    Args:
        min_new_tokens: The end token may not come before this many others.
        cache: Keep keys and values of earlier positions. Without, every step computes the whole prefix anew: the same
            result, by the shortest path from the model's definition.
    """
    config = model.config
    ids, lengths = pad(sources, config.pad_id)
    encoded = model.encode(ids, lengths)
    state = model.begin(encoded, lengths)
    prefix = torch.full((len(sources), 1), config.decoder_start_id)
    steps: list[Tensor] = []
    ended = torch.zeros(len(sources), dtype=torch.bool)
    while len(steps) < max_new_tokens and not bool(ended.all()):
        if cache:
            logits = model.decode(prefix[:, -1:], state)[:, -1]
        else:
            logits = model.decode(prefix, model.begin(encoded, lengths))[:, -1]
        allowed = logits
        if len(steps) < min_new_tokens:
            allowed = logits.clone()
            allowed[:, config.eos_id] = -torch.inf
        chosen = allowed.argmax(dim=-1)
        steps.append(logits)
        ended |= chosen == config.eos_id
        prefix = torch.cat([prefix, chosen[:, None]], dim=1)
    return [
        _cut(prefix[row, 1:].tolist(), torch.stack([step[row] for step in steps]), config.eos_id)
        for row in range(len(sources))
    ]


def _cut(chosen: list[int], logits: Tensor, eos_id: int) -> Decoded:
    """What one row generated, up to and including its end token."""
    end = chosen.index(eos_id) + 1 if eos_id in chosen else len(chosen)
    log_probs = torch.log_softmax(logits[:end], dim=-1).gather(1, torch.tensor(chosen[:end])[:, None])[:, 0]
    finished = eos_id in chosen
    return Decoded(
        token_ids=chosen[: end - finished],
        log_probs=log_probs.tolist(),
        logits=logits[:end].numpy(),
        finish_reason="eos" if finished else "length",
    )
