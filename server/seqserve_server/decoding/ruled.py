"""Rules before a search: tokens that may not come, repetition made less likely, draws instead of the best.

The search behind them gets candidates as any does; that others were taken away it does not know.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.capacity import power_of_two
from seqserve_server.decoding.bans import Suppression, Tokens, repeated
from seqserve_server.decoding.drawing import Numbers, best, drawn
from seqserve_server.decoding.search import Advance, Hypothesis, Search, SearchSettings

# Beyond so many best tokens a request looks at its own logits: every row of a step brings as many candidates as the one
# that asks for most. And their number is rounded up, because the engine prepares for each number apart.
MOST_CANDIDATES, LEAST_EXTRA = 128, 8
Row = tuple[list[int], list[float]]  # candidates best first, and their log-probabilities


def biased(log_probs: Numbers, token: int, bias: float) -> Numbers:
    """Log-probabilities of a mixture: this token with weight ``bias``, the given distribution with the rest."""
    mixed = log_probs + math.log1p(-bias)
    mixed[token] = np.logaddexp(math.log(bias), mixed[token])
    return mixed


class RuledSearch:
    """Implements :class:`seqserve_server.decoding.search.Search` around another.

    Best tokens alone do for bans: so many more are asked for. A penalty, a draw from all tokens, and many bans want the
    logits. A hypothesis that no token may follow ends there, with the end token, whatever bans it.
    """

    __slots__ = ("_banned", "_histories", "_inner", "_prompt", "_settings", "_suppressed", "_suppression")

    def __init__(self, inner: Search, settings: SearchSettings, prompt: Sequence[int]) -> None:
        prompt = tuple(prompt)[1:] if settings.renormalise else tuple(prompt)
        self._inner, self._settings, self._prompt = inner, settings, len(prompt)
        self._suppression = Suppression(settings.suppressed)
        self._suppressed = np.array(sorted(self._suppression.always), dtype=np.int64)
        self._histories: list[Tokens] = [prompt]
        self._banned = [self._bans(self._histories[0])]

    @property
    def candidates(self) -> int:
        """What the search behind needs, and one more for each ban; beside logits, the best alone."""
        return 1 if self.wants_logits else self._wanted + self._extra

    @property
    def wants_logits(self) -> bool:
        """Where best tokens do not say enough, or too many of them would be needed."""
        settings, sampling, extra = self._settings, self._settings.sampling, self._extra
        return (
            settings.repetition_penalty != 1 or (sampling is not None and sampling.top_k == 0)
            or self._wanted + extra > MOST_CANDIDATES or (settings.renormalise and extra > 0)
            or any(self._favoured(history) is not None for history in self._histories)
        )

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take one step with what the rules leave."""
        wide, count = self.wants_logits, self.candidates
        rows: list[Row] = []
        for lane, (ids, scores) in enumerate(zip(token_ids, log_probs, strict=True)):
            if wide:
                # The model's normaliser, by the best token, of which both are known.
                shift = scores[0] - float(logits[lane][ids[0]])
                rows.append(self._of_logits(lane, logits[lane].astype(np.float64), shift))
            else:  # no more than asked for, though others may have asked for more: answers depend on no other request
                rows.append(self._of_candidates(lane, ids[:count], scores[:count]))
        advance = self._inner.advance([ids for ids, _ in rows], [scores for _, scores in rows])
        self._histories = [(*self._histories[each.parent], each.token) for each in advance.live]
        self._banned = [self._bans(history) for history in self._histories]
        return advance

    def so_far(self) -> Hypothesis:
        """What the search behind has."""
        return self._inner.so_far()

    @property
    def _wanted(self) -> int:
        sampling = self._settings.sampling
        return self._inner.candidates if sampling is None else max(sampling.top_k, 1)

    @property
    def _extra(self) -> int:
        """Candidates that bans may take away."""
        most = len(self._suppressed) + max(map(len, self._banned), default=0)
        return power_of_two(most, LEAST_EXTRA) if most else 0

    def _bans(self, history: Tokens) -> set[int]:
        """What may not follow a hypothesis, beside what never may."""
        settings = self._settings
        bans = self._suppression.after(history)
        if settings.no_repeat_ngram_size:
            bans |= repeated(history, settings.no_repeat_ngram_size)
        early = len(history) - self._prompt < settings.min_new_tokens
        if early and (settings.sampling is not None or settings.renormalise):
            bans.add(settings.end_id)  # the search behind could draw no other, and takes log-probabilities as they are
        return bans

    def _favoured(self, history: Tokens) -> int | None:
        """The next token of what is favoured, for a hypothesis that followed it so far."""
        favoured = self._settings.favoured
        if not favoured:
            return None
        generated = history[self._prompt :]
        follows = len(generated) < len(favoured) and generated == favoured[: len(generated)]
        return favoured[len(generated)] if follows else None

    def _of_candidates(self, lane: int, ids: Sequence[int], log_probs: Sequence[float]) -> Row:
        """What bans leave of the best tokens, and if one is to be drawn, which."""
        banned, never = self._banned[lane], self._suppression.always
        left = [
            each for each in zip(ids, log_probs, strict=True) if each[0] not in banned and each[0] not in never
        ]
        if not left:  # then there were all tokens, since one more was asked for than there are bans
            end = list(ids).index(self._settings.end_id)
            return [ids[end]], [log_probs[end]]
        if self._settings.sampling is not None:
            scores = np.array([score for _, score in left])
            left = [left[drawn(scores, self._settings.sampling, len(self._histories[lane]) - self._prompt)]]
        return [token for token, _ in left], [score for _, score in left]

    def _of_logits(self, lane: int, logits: Numbers, shift: float) -> Row:
        """The same from all logits.

        Args:
            shift: What makes the logits log-probabilities.
        """
        settings, history = self._settings, self._histories[lane]
        own = logits + shift
        # transformers penalises logits when it is greedy or draws, and log-probabilities when it has beams.
        scores = logits if settings.beam_size == 1 or settings.renormalise else own.copy()
        if settings.repetition_penalty != 1:
            before = scores[list(history)]
            penalty = settings.repetition_penalty
            scores[list(history)] = np.where(before < 0, before * penalty, before / penalty)
        scores[self._suppressed] = -np.inf
        scores[list(self._banned[lane])] = -np.inf
        most = scores.max()
        if most == -np.inf:
            return [settings.end_id], [float(own[settings.end_id])]
        favoured = self._favoured(history)
        if settings.renormalise or favoured is not None:
            scores = own = scores - (most + np.log(np.exp(scores - most).sum()))
        if favoured is not None and scores[favoured] > -np.inf:  # favour does not lift a ban
            scores = own = biased(own, favoured, settings.prefix_bias)
        if settings.sampling is not None:
            chosen = np.array([drawn(scores, settings.sampling, len(history) - self._prompt)])
        else:
            chosen = best(scores, self._wanted)
            chosen = chosen[scores[chosen] > -np.inf]
        return chosen.tolist(), (scores if settings.beam_size > 1 else own)[chosen].tolist()
