"""Rules as their definitions read, over whole vocabularies, and an engine that brings a search what it asks for."""

from collections.abc import Callable
from typing import Any

import numpy as np

from beam_reference import Tokens, grown
from seqserve_server.decoding import search_of
from seqserve_server.decoding.ruled import MOST_CANDIDATES
from seqserve_server.decoding.search import Hypothesis, SearchSettings

END, START = 1, 2
Logits = Callable[[Tokens], Any]  # what was generated -> logits of the next token, float32


def random_model(seed: int, size: int, sharpness: float = 2.0) -> Logits:
    """A model that likes to repeat the last token, with logits of both signs."""
    def logits(generated: Tokens) -> Any:
        values = np.random.default_rng([seed, *generated]).normal(0, sharpness, size)
        if generated:
            values[generated[-1]] += sharpness
        return values.astype(np.float32)

    return logits


def own_log_probs(logits: Any) -> Any:
    exact = logits.astype(np.float64)
    return exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())


def decode(
    model: Logits, chosen: SearchSettings, prompt: Tokens, more: Callable[[], int] = lambda: 0, *, whole: bool = False
) -> list[Hypothesis]:
    """What a search finds with an engine that brings what is asked for.

    Args:
        more: How many candidates beyond, for others in the batch.
        whole: Bring logits that nobody asked for, too.
    """
    search, live = search_of(chosen, prompt), [Tokens()]
    streamed: list[int] = []
    while True:
        rows = [model(each) for each in live]
        scores = [own_log_probs(row) for row in rows]
        count = search.candidates + more()
        ids = [np.argsort(-row, kind="stable")[:count] for row in rows]
        assert search.wants_logits or search.candidates <= MOST_CANDIDATES
        step = search.advance(
            [each.tolist() for each in ids], [score[each].tolist() for score, each in zip(scores, ids, strict=True)],
            rows if search.wants_logits or whole else [],
        )
        streamed += step.stable
        if step.found is not None:
            assert streamed == step.found[0].token_ids
            return step.found
        live = grown(live, step.live)


def banned(history: Tokens, chosen: SearchSettings, size: int) -> set[int]:
    """Token by token, what would finish a suppressed sequence or repeat one."""
    found = set()
    for token in range(size):
        after = (*history, token)
        long = chosen.no_repeat_ngram_size
        repeats = long and len(after) >= long and any(
            history[place : place + long] == after[-long:] for place in range(len(history) - long + 1)
        )
        if repeats or any(after[-len(each) :] == each for each in chosen.suppressed):
            found.add(token)
    return found


def processed(values: Any, history: Tokens, chosen: SearchSettings) -> Any:
    """Logits or log-probabilities after the rules, as transformers' processors are written."""
    values = values.astype(np.float64)
    for token in set(history):
        penalty = chosen.repetition_penalty
        values[token] = values[token] * penalty if values[token] < 0 else values[token] / penalty
    for token in banned(history, chosen, len(values)):
        values[token] = -np.inf
    if (values == -np.inf).all():  # nothing may come: it ends
        values[END] = 0.0
    return values


def renormalised(logits: Any, generated: Tokens, prompt: Tokens, chosen: SearchSettings) -> Any:
    """Log-probabilities of what is left, as CTranslate2's processors leave it; its history has no start token."""
    left = processed(logits, (*prompt[1:], *generated), chosen)
    if len(generated) < chosen.min_new_tokens and (np.delete(left, END) > -np.inf).any():
        left[END] = -np.inf
    return left - left.max() - np.log(np.exp(left - left.max()).sum())
