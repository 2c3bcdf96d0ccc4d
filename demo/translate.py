"""Greedy translation with the PyTorch reference, and its BLEU."""

from dataclasses import dataclass

import torch
from sacrebleu.metrics.bleu import BLEU
from tokenizers import Tokenizer
from torch import Tensor

from pairs import EOS, PAD, START, Pair, collate, source_ids
from seqserve_export.model import CanonicalModel

ROWS = 128
EXTRA = 32


@dataclass(frozen=True)
class Score:
    """BLEU of one test set, how it was computed, and the translations."""

    bleu: float
    signature: str
    translations: list[str]


@torch.no_grad()
def greedy(model: CanonicalModel, source: Tensor, lengths: Tensor, limit: int) -> list[list[int]]:
    """Most probable token at each step until EOS or ``limit`` tokens.

    Args:
        model: in evaluation mode.
        source: [batch, source length], padded.
        lengths: [batch].
        limit: tokens at most, EOS included.

    Returns:
        Ids of each target, without START and EOS.
    """
    state = model.begin(model.encode(source, lengths), lengths)
    last = torch.full((source.shape[0], 1), START)
    done = torch.zeros(source.shape[0], dtype=torch.bool)
    steps: list[Tensor] = []
    while len(steps) < limit and not bool(done.all()):
        last = model.decode(last, state)[:, -1].argmax(-1, keepdim=True)
        # Rows that have ended keep their place in the batch and write padding.
        last = last.masked_fill(done[:, None], PAD)
        done |= last[:, 0] == EOS
        steps.append(last)
    return [[token for token in row if token not in (EOS, PAD)] for row in torch.cat(steps, 1).tolist()]


def translate(model: CanonicalModel, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Translate in batches of similar length; the answers come in the order of ``texts``."""
    sources = source_ids(tokenizer, texts)
    order = sorted(range(len(texts)), key=lambda index: len(sources[index]))
    answers = [""] * len(texts)
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        batch = collate([Pair(sources[index], [START]) for index in rows])
        limit = min(batch.source.shape[1] + EXTRA, model.config.max_target_length)
        targets = greedy(model, batch.source, batch.lengths, limit)
        for index, text in zip(rows, tokenizer.decode_batch(targets), strict=True):
            answers[index] = text.strip()
    return answers


def score(model: CanonicalModel, tokenizer: Tokenizer, english: list[str], german: list[str]) -> Score:
    """Corpus BLEU of greedy translations, cased and detokenised, against one reference."""
    training = model.training
    model.eval()
    translations = translate(model, tokenizer, english)
    model.train(training)
    metric = BLEU()
    bleu = metric.corpus_score(translations, [german]).score
    return Score(bleu, str(metric.get_signature()), translations)
