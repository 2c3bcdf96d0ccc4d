"""Beam search for answers that hold given phrases, by dynamic beam allocation (Post and Vilar 2018).

Hypotheses compete only with those that have as much of the phrases: every step, the beam is shared out between the
numbers of tokens achieved, and what one cannot fill goes to the next. To the best continuations come, for each
hypothesis, its own best one and those that begin or go on with a phrase that it lacks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.bans import Suppression, Tokens
from seqserve_server.decoding.beam import BeamSearch, Ranked
from seqserve_server.decoding.drawing import best
from seqserve_server.decoding.search import Advance, SearchSettings


class Phrases:
    """Sequences of tokens that an answer has to hold, each once at least, in any order; they may overlap."""

    def __init__(self, phrases: Sequence[Tokens]) -> None:
        # One that lies within another comes with it.
        self._phrases = [
            one for one in dict.fromkeys(phrases) if not any(one != other and _holds(other, one) for other in phrases)
        ]
        self.tokens = sum(map(len, self._phrases))

    def missing(self, tokens: Tokens) -> list[Tokens]:
        """Those that a sequence lacks."""
        return [phrase for phrase in self._phrases if not _holds(tokens, phrase)]

    def achieved(self, tokens: Tokens) -> int:
        """How many tokens of the phrases a sequence has: of whole ones, and of the longest that it ends in."""
        missing = self.missing(tokens)
        begun = max((_begun(tokens, phrase) for phrase in missing), default=0)
        return self.tokens - sum(map(len, missing)) + begun

    def next_tokens(self, tokens: Tokens) -> set[int]:
        """What begins or goes on with a phrase that is missing."""
        missing = self.missing(tokens)
        return {phrase[0] for phrase in missing} | {phrase[_begun(tokens, phrase)] for phrase in missing}


def _holds(tokens: Tokens, phrase: Tokens) -> bool:
    size = len(phrase)
    return any(tokens[place : place + size] == phrase for place in range(len(tokens) - size + 1))


def _begun(tokens: Tokens, phrase: Tokens) -> int:
    """How many tokens of a phrase stand at the end of a sequence; less than all."""
    most = min(len(phrase) - 1, len(tokens))
    return next((size for size in range(most, 0, -1) if tokens[-size:] == phrase[:size]), 0)


class ConstrainedBeamSearch(BeamSearch):
    """A beam search in which only hypotheses with all phrases end, and none is kept that has no room left for them."""

    __slots__ = ("_histories", "_phrases", "_prompt", "_suppressed", "_suppression")

    def __init__(self, settings: SearchSettings, prompt: Sequence[int]) -> None:
        super().__init__(settings)
        self._phrases = Phrases(settings.required)
        self._suppression = Suppression(settings.suppressed)
        self._suppressed = np.array(sorted(self._suppression.always), dtype=np.int64)
        self._histories: list[Tokens] = [tuple(prompt)]
        self._prompt = len(prompt)

    @property
    def candidates(self) -> int:
        """Beside logits, the best alone."""
        return 1

    @property
    def wants_logits(self) -> bool:
        """The tokens of a phrase need not be among the best."""
        return True

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take one step."""
        settings, histories = self._settings, self._histories
        self._length += 1
        left = settings.max_new_tokens - self._length - settings.forced_end
        rows = [
            row.astype(np.float64) + (log_probs[parent][0] - float(row[token_ids[parent][0]]))
            for parent, row in enumerate(logits)
        ]
        if left < 0:  # the forced end: no choice, so the log-probability is 0
            ranked = [(-node.total, settings.end_id, parent, 0.0) for parent, node in enumerate(self._live)]
        else:
            # Where bans of sequences leave no way to a phrase, the phrase goes before.
            ranked = self._fitting(rows, left, strict=True) or self._fitting(rows, left, strict=False)
        advance = self._take(self._share_out(ranked))
        self._histories = [(*histories[each.parent], each.token) for each in advance.live]
        return advance

    def _fitting(self, rows: Sequence[NDArray[np.float64]], left: int, *, strict: bool) -> list[Ranked]:
        """Continuations that leave room for what they lack, in so many more tokens."""
        continuations = [each for parent, row in enumerate(rows) for each in self._continuations(parent, row, strict)]
        end, tokens = self._settings.end_id, self._phrases.tokens
        return [each for each in continuations if each[1] == end or tokens - self._achieved(each) <= left]

    def _continuations(self, parent: int, log_probs: NDArray[np.float64], strict: bool) -> list[Ranked]:
        """What a hypothesis may go on with: its best tokens, what a phrase needs, and the end if it has all."""
        settings, history, total = self._settings, self._histories[parent], self._live[parent].total
        end, needed, scores = settings.end_id, self._phrases.next_tokens(history[self._prompt :]), log_probs.copy()
        scores[self._suppressed] = -np.inf
        scores[list(self._suppression.after(history) - (set() if strict else needed))] = -np.inf
        if needed or self._length <= settings.min_new_tokens:
            scores[end] = -np.inf
        tokens = dict.fromkeys([*best(scores, settings.beam_size + 1).tolist(), *sorted(needed)])
        return [
            (-(total + float(scores[token])), token, parent, float(scores[token]))
            for token in tokens if scores[token] > -np.inf
        ]

    def _achieved(self, continuation: Ranked) -> int:
        _, token, parent, _ = continuation
        return self._phrases.achieved((*self._histories[parent][self._prompt :], token))

    def _share_out(self, ranked: list[Ranked]) -> list[Ranked]:
        """Ends, and as many others as there are beams: from each bank its part, the fullest bank first."""
        end, beam = self._settings.end_id, self._settings.beam_size
        banks: dict[int, list[Ranked]] = {}
        ends: list[Ranked] = []
        for each in sorted(ranked):
            if each[1] == end:
                ends.append(each)
            else:
                banks.setdefault(self._achieved(each), []).append(each)
        chosen: list[Ranked] = []
        for turn, number in enumerate(order := sorted(banks, reverse=True)):
            part = -(-(beam - len(chosen)) // (len(order) - turn))
            chosen += banks[number][:part]
            banks[number] = banks[number][part:]
        spare = sorted(each for bank in banks.values() for each in bank)
        return sorted([*ends, *chosen, *spare[: beam - len(chosen)]])
