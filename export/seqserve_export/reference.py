"""Greedy decoding with the PyTorch model, written to be read: what the exported bundle has to reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqserve_export.model import CanonicalModel

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
def encoder_states(model: CanonicalModel, sources: Sources) -> list[NDArray[np.float32]]:
    """Encoder output [length, width] of every source."""
    ids, lengths = pad(sources, model.config.pad_id)
    states = model.encoder_states(ids, lengths)
    return [row[:length].numpy() for row, length in zip(states, lengths.tolist(), strict=True)]


@torch.no_grad()
def step_logits(
    model: CanonicalModel, sources: Sources, targets: Sources, prompts: Sources | None = None, last: int | None = None
) -> list[NDArray[np.float32]]:
    """Teacher-forced logits [target length, vocabulary]: row i is what the model thinks of target position i.

    Args:
        prompts: What the decoder is fed before the targets, all of one length; by default the decoder start token.
        last: Keep only so many rows of each target, the last ones.
    """
    pad_id, prompts = model.config.pad_id, _prompts(model, len(sources), prompts)
    fed, _ = pad([[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)], pad_id)
    ids, lengths = pad(sources, pad_id)
    states = model.decoder_states(fed, model.begin(model.encode(ids, lengths), lengths))[:, len(prompts[0]) - 1 :]
    rows = (row[: len(target)] for row, target in zip(states, targets, strict=True))
    return [model.project(row if last is None else row[-last:]).numpy() for row in rows]


@torch.no_grad()
def greedy(
    model: CanonicalModel, sources: Sources, max_new_tokens: int, min_new_tokens: int = 0, *,
    prompts: Sources | None = None, forced_end: bool = False, cache: bool = True,
) -> list[Decoded]:
    """Decode a batch of complete sources, each until its end token or ``max_new_tokens`` tokens.

    Args:
        min_new_tokens: The end token may not come before this many others.
        prompts: As in ``step_logits``.
        forced_end: The last token that the limit allows is the end token. It then has no logits, its log-probability
            is 0, and the reason is still "length".
        cache: Keep keys and values of earlier positions. Without, every step computes the whole prefix anew: the same
            result, by the shortest path from the model's definition.
    """
    config = model.config
    ids, lengths = pad(sources, config.pad_id)
    encoded = model.encode(ids, lengths)
    state = model.begin(encoded, lengths)
    prefix = torch.tensor([list(prompt) for prompt in _prompts(model, len(sources), prompts)])
    begun, fed = prefix.shape[1], 0
    steps: list[Tensor] = []
    ended = torch.zeros(len(sources), dtype=torch.bool)
    while len(steps) < max_new_tokens - forced_end and not bool(ended.all()):
        if cache:
            logits = model.decode(prefix[:, fed:], state)[:, -1]
            fed = prefix.shape[1]
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
    # [rows, steps, vocabulary], which may be without steps
    logits = torch.stack(steps, dim=1) if steps else torch.zeros(len(sources), 0, config.target_vocab_size)
    return [
        _cut(prefix[row, begun:].tolist(), logits[row], config.eos_id, forced_end=forced_end)
        for row in range(len(sources))
    ]


def _prompts(model: CanonicalModel, count: int, prompts: Sources | None) -> Sources:
    return [[model.config.decoder_start_id]] * count if prompts is None else prompts


def _cut(chosen: list[int], logits: Tensor, eos_id: int, *, forced_end: bool) -> Decoded:
    """What one row generated, up to and including its end token."""
    finished = eos_id in chosen
    end = chosen.index(eos_id) + 1 if finished else len(chosen)
    picked = torch.tensor(chosen[:end], dtype=torch.int64)[:, None]
    log_probs = torch.log_softmax(logits[:end], dim=-1).gather(1, picked)[:, 0].tolist()
    return Decoded(
        token_ids=chosen[: end - finished],
        log_probs=log_probs if finished or not forced_end else [*log_probs, 0.0],
        logits=logits[:end].numpy(),
        finish_reason="eos" if finished else "length",
    )
