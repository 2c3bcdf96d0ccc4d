"""A model whose every answer can be checked with a pencil.

    next token = (sum of all tokens fed so far + sum of the source) mod 29

A source of 5 and 6, closed by its end token 1, sums to 12. The decoder start is 2, so the first token is 14. As it is
fed too, the second is (2 + 14) + 12 = 28, and so on: each token is twice the one before it, mod 29,

    14, 28, 27, 25, 21, 13, 26, 23, 17, 5, 10, 20, 11, 22, 15, 1 -- and 1 is the end token.

Doubling reaches every number from 1 to 28, so every source ends within 28 tokens, but for those that begin with 0: they
repeat it for ever. Who departs from the best token departs from the doubling too, and for good: the whole history of a
row is in all that follows.

The best token t has a log-probability of -t / 128, where 0 counts as 29. The two after it cost 1/8 more, the two after
these 2/8 more, and so on around the 29; of equal ones the lower goes first. Logits are the same numbers. Float32 holds
all of them, and their sums, exactly. Where the end may not come yet the second candidate is taken: 2, for -1/128 - 1/8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import Hypothesis, Search, SearchSettings
from seqserve_server.request import FinishReason

VOCABULARY = 29
UNKNOWN, END, START = 0, 1, 2


def log_prob(best: int) -> float:
    """What a best token costs."""
    return -(best or VOCABULARY) / 128


def best_first(total: int) -> list[tuple[float, int]]:
    """Log-probability and id of all tokens, after tokens and a source of this sum."""
    best = total % VOCABULARY
    cost = {(best + after) % VOCABULARY: (after + 1) // 2 for after in range(VOCABULARY)}
    order = sorted(cost, key=lambda token: (cost[token], token))
    return [(log_prob(best) - cost[token] / 8, token) for token in order]


BEST_FIRST = [best_first(total) for total in range(VOCABULARY)]
LOGITS = np.array([[cost for cost, _ in sorted(row, key=lambda each: each[1])] for row in BEST_FIRST], np.float32)


def answer(
    source: Sequence[int], max_new_tokens: int, min_new_tokens: int = 0, *, prompt: Sequence[int] = (START,),
    forced_end: bool = False,
) -> tuple[list[int], list[float], FinishReason]:
    """The greedy answer as a pencil finds it: token ids without the end, log-probabilities with it, why it ends."""
    tokens: list[int] = []
    log_probs: list[float] = []
    total = sum(source) + sum(prompt)
    while len(log_probs) < max_new_tokens:
        if forced_end and len(log_probs) == max_new_tokens - 1:
            return tokens, [*log_probs, 0.0], FinishReason.LENGTH
        token = total % VOCABULARY
        log_probs.append(log_prob(token))
        if token == END and len(log_probs) <= min_new_tokens:
            token, log_probs[-1] = END + 1, log_probs[-1] - 1 / 8
        if token == END:
            return tokens, log_probs, FinishReason.EOS
        tokens.append(token)
        total += token
    return tokens, log_probs, FinishReason.LENGTH


def scores(source: Sequence[int], prompt: Sequence[int], scored: Sequence[int]) -> list[float]:
    """Log-probability of each token behind a prompt, whether it is the best or not."""
    total, found = sum(source) + sum(prompt), []
    for token in scored:
        found.append(next(log_prob for log_prob, each in BEST_FIRST[total % VOCABULARY] if each == token))
        total += token
    return found


def attention(source: int, scored: int) -> list[list[float]]:
    """Of each scored token on each source token: the n-th gives half to the n-th, all share the other half."""
    shared = [1 / (2 * source)] * source
    return [[weight + (place == row % source) / 2 for place, weight in enumerate(shared)] for row in range(scored)]


@dataclass(frozen=True)
class Course:
    """What a search does, step by step; entry ``n`` of each list is after ``n`` generated tokens.

    Attributes:
        live: The tokens of every live hypothesis, in the search's order.
        told: How many tokens a stream has had.
        so_far: What a request gets that is ended from outside.
        found: What it finds in the end.
    """

    live: list[list[list[int]]] = field(default_factory=lambda: [[[]]])
    told: list[int] = field(default_factory=lambda: [0])
    so_far: list[Hypothesis] = field(default_factory=lambda: [Hypothesis([], [], 0.0, ended=False)])
    found: list[Hypothesis] = field(default_factory=list)

    @property
    def reason(self) -> FinishReason:
        """Why it ends."""
        return FinishReason.EOS if self.found[0].ended else FinishReason.LENGTH


@lru_cache(maxsize=4096)
def course(
    source: tuple[int, ...], prompt: tuple[int, ...], settings: SearchSettings,
    search_of: Callable[[SearchSettings, Sequence[int]], Search] = search_of,
) -> Course:
    """The search alone, with neither rows nor caches: every step sums up every hypothesis anew."""
    search, found, given = search_of(settings, prompt), Course(), sum(source) + sum(prompt)
    while True:
        totals = [(given + sum(tokens)) % VOCABULARY for tokens in found.live[-1]]
        ranked = [BEST_FIRST[total][: search.candidates] for total in totals]
        advance = search.advance(
            [[token for _, token in row] for row in ranked], [[log_prob for log_prob, _ in row] for row in ranked],
            [LOGITS[total] for total in totals] if search.wants_logits else (),
        )
        found.told.append(found.told[-1] + len(advance.stable))
        if advance.found is not None:
            found.found.extend(advance.found)
            return found
        found.live.append([[*found.live[-1][each.parent], each.token] for each in advance.live])
        best = search.so_far()
        found.so_far.append(Hypothesis(list(best.token_ids), list(best.log_probs), best.score, best.ended))
