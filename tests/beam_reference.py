"""Beam search as its definition reads: whole tables of continuations, sorted, and histories copied at every step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqserve_server.decoding.search import Continuation, Hypothesis, Search, SearchSettings, Stopping

Tokens = tuple[int, ...]
Model = Callable[[Tokens], Any]  # what was generated -> log-probabilities of the next token, float64, one per token


@dataclass(frozen=True)
class Sequence:
    """A hypothesis, live or ended."""

    token_ids: Tokens = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0
    score: float = 0.0
    ended: bool = False


@dataclass
class Reference:
    """One search; ``step`` until it is ``over``."""

    settings: SearchSettings
    model: Model
    live: list[Sequence] = field(default_factory=lambda: [Sequence()])
    found: list[Sequence] = field(default_factory=list)
    registered: int = 0
    top_ended: bool = False
    over: bool = False

    def step(self) -> None:
        """All continuations of all live hypotheses, the best of which end or live on."""
        settings, beam = self.settings, self.settings.beam_size
        length = len(self.live[0].log_probs) + 1
        last = length == settings.max_new_tokens
        totals, log_probs = self._continuations(length)
        parents, tokens = np.indices(totals.shape).reshape(2, -1)
        order = np.lexsort((parents, tokens, -totals.ravel()))
        order = order[totals.ravel()[order] > -np.inf][: 2 * beam]
        grown: list[Sequence] = []
        for place, (parent, token) in enumerate(zip(parents[order].tolist(), tokens[order].tolist(), strict=True)):
            before, log_prob = self.live[parent], float(log_probs[parent, token])
            total = before.total + log_prob
            ends = token == settings.end_id
            grown_by = Sequence(
                before.token_ids if ends else (*before.token_ids, token), (*before.log_probs, log_prob), total,
                total / length**settings.length_penalty, ends and not (last and settings.forced_end),
            )
            if place < beam and (ends or last):
                self.found.append(grown_by)
                self.registered += 1
                self.top_ended |= place == 0
            if not ends:
                grown.append(grown_by)
        self.found.sort(key=lambda each: -each.score)
        if settings.stopping is not Stopping.PATIENCE:
            del self.found[beam:]
        self.live = grown[:beam]
        self.over = last or not self.live or self._enough(length)

    def _continuations(self, length: int) -> tuple[Any, Any]:
        settings = self.settings
        log_probs = np.array([self.model(each.token_ids) for each in self.live])
        if length <= settings.min_new_tokens:
            log_probs[:, settings.end_id] = -np.inf
        if settings.forced_end and length == settings.max_new_tokens:
            log_probs[:] = -np.inf
            log_probs[:, settings.end_id] = 0
        return log_probs + np.array([[each.total] for each in self.live]), log_probs

    def _enough(self, length: int) -> bool:
        settings, penalty = self.settings, self.settings.length_penalty
        if settings.stopping is Stopping.PATIENCE:
            if penalty == 0:
                return self.top_ended and self.registered >= settings.num_hypotheses
            wanted = math.floor(settings.beam_size * settings.patience + 0.5)
            return self.registered >= max(wanted, settings.num_hypotheses)
        if len(self.found) < settings.beam_size:
            return False
        if settings.stopping is Stopping.EXHAUSTIVE and penalty > 0:
            length = settings.max_new_tokens
        hope = max(each.total for each in self.live) / length**penalty
        return settings.stopping is Stopping.FULL or not hope > min(each.score for each in self.found)

    def answers(self) -> list[Hypothesis]:
        """What it found."""
        return [
            Hypothesis(list(each.token_ids), list(each.log_probs), each.score, each.ended)
            for each in self.found[: self.settings.num_hypotheses]
        ]


def candidates_of(search: Search, model: Model, live: list[Tokens]) -> tuple[list[list[int]], list[list[float]]]:
    """What an engine brings: no more than the search asks for, best first, ties to the lower id."""
    rows = [model(each) for each in live]
    ids = [np.argsort(-row, kind="stable")[: search.candidates].tolist() for row in rows]
    return ids, [row[chosen].tolist() for row, chosen in zip(rows, ids, strict=True)]


def grown(live: list[Tokens], steps: list[Continuation]) -> list[Tokens]:
    """The live hypotheses after a step."""
    return [(*live[each.parent], each.token) for each in steps]
