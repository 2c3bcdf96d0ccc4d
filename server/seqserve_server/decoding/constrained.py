"""Beam search for answers that hold given phrases, by dynamic beam allocation (Post and Vilar 2018).

Hypotheses compete only with those that have as much of the phrases: every step, the beam is shared out between the
numbers of tokens achieved, and what one cannot fill goes to the next. To the best continuations come, for each
hypothesis, its own best one and those that begin or go on with a phrase that it lacks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.bans import Suppression, Tokens
from seqserve_server.decoding.beam import BeamSearch, Ranked
from seqserve_server.decoding.drawing import best
from seqserve_server.decoding.matching import failures, matched
from seqserve_server.decoding.search import Advance, SearchSettings


@dataclass(frozen=True, slots=True)
class Progress:
    """What a hypothesis has of the phrases.

    Attributes:
        missing: Numbers of those that it lacks.
        begun: Of each of these, how many of its tokens stand at the hypothesis' end; less than all.
        whole: Tokens of the phrases that it has.
    """

    missing: tuple[int, ...]
    begun: tuple[int, ...]
    whole: int

    @property
    def achieved(self) -> int:
        """Tokens of whole phrases, and of the longest that is begun."""
        return self.whole + max(self.begun, default=0)


class Phrases:
    """Sequences of tokens that an answer has to hold, each once at least, in any order; they may overlap.

    Followed as Knuth, Morris and Pratt do: a token costs what the missing phrases are long, whatever came before.
    """

    def __init__(self, phrases: Sequence[Tokens]) -> None:
        # One that lies within another comes with it.
        self._phrases = [
            one for one in dict.fromkeys(phrases) if not any(one != other and _holds(other, one) for other in phrases)
        ]
        self._failures = [failures(phrase) for phrase in self._phrases]
        self.tokens = sum(map(len, self._phrases))

    def begin(self) -> Progress:
        """Of nothing."""
        count = len(self._phrases)
        return Progress(tuple(range(count)), (0,) * count, 0)

    def next_tokens(self, progress: Progress) -> dict[int, int]:
        """Tokens that begin or go on with a missing phrase, and what is achieved with each; others leave ``whole``."""
        whole: dict[int, int] = {}
        begun: dict[int, int] = {}
        for number, length in zip(progress.missing, progress.begun, strict=True):
            phrase, table = self._phrases[number], self._failures[number]
            seen: set[int] = set()  # with what is longer
            for size in _ends(table, length):
                token = phrase[size]
                if size + 1 == len(phrase):
                    whole[token] = whole.get(token, 0) + len(phrase)
                elif token not in seen:
                    begun[token] = max(begun.get(token, 0), size + 1)
                seen.add(token)
        return {
            token: progress.whole + whole.get(token, 0) + begun.get(token, 0) for token in {**whole, **begun}
        }

    def after(self, progress: Progress, token: int) -> Progress:
        """With a token more."""
        missing, begun, whole = [], [], progress.whole
        for number, length in zip(progress.missing, progress.begun, strict=True):
            phrase = self._phrases[number]
            size = matched(phrase, self._failures[number], length, token)
            if size == len(phrase):
                whole += size
            else:
                missing.append(number)
                begun.append(size)
        return Progress(tuple(missing), tuple(begun), whole)


def _ends(table: Sequence[int], length: int) -> Iterator[int]:
    """This length of a beginning, and the shorter ones that it ends with."""
    while length:
        yield length
        length = table[length - 1]
    yield 0


def _holds(tokens: Tokens, phrase: Tokens) -> bool:
    size = len(phrase)
    return any(tokens[place : place + size] == phrase for place in range(len(tokens) - size + 1))


class ConstrainedBeamSearch(BeamSearch):
    """A beam search in which only hypotheses with all phrases end, and none is kept that has no room left for them."""

    __slots__ = ("_gains", "_histories", "_phrases", "_progress", "_suppressed", "_suppression")

    def __init__(self, settings: SearchSettings, prompt: Sequence[int]) -> None:
        super().__init__(settings)
        self._phrases = Phrases(settings.required)
        self._suppression = Suppression(settings.suppressed)
        self._suppressed = np.array(sorted(self._suppression.always), dtype=np.int64)
        self._histories: list[Tokens] = [tuple(prompt)]
        self._progress = [self._phrases.begin()]  # of what is behind the prompt
        self._gains = [self._phrases.next_tokens(each) for each in self._progress]

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
        settings, histories, progress = self._settings, self._histories, self._progress
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
        self._progress = [self._phrases.after(progress[each.parent], each.token) for each in advance.live]
        self._gains = [self._phrases.next_tokens(each) for each in self._progress]
        return advance

    def _fitting(self, rows: Sequence[NDArray[np.float64]], left: int, *, strict: bool) -> list[Ranked]:
        """Continuations that leave room for what they lack, in so many more tokens."""
        continuations = [each for parent, row in enumerate(rows) for each in self._continuations(parent, row, strict)]
        end, tokens = self._settings.end_id, self._phrases.tokens
        return [each for each in continuations if each[1] == end or tokens - self._achieved(each) <= left]

    def _continuations(self, parent: int, log_probs: NDArray[np.float64], strict: bool) -> list[Ranked]:
        """What a hypothesis may go on with: its best tokens, what a phrase needs, and the end if it has all."""
        settings, history, total = self._settings, self._histories[parent], self._live[parent].total
        end, needed, scores = settings.end_id, self._gains[parent], log_probs.copy()
        scores[self._suppressed] = -np.inf
        scores[list(self._suppression.after(history) - (set() if strict else needed.keys()))] = -np.inf
        if needed or self._length <= settings.min_new_tokens:
            scores[end] = -np.inf
        tokens = dict.fromkeys([*best(scores, settings.beam_size + 1).tolist(), *sorted(needed)])
        return [
            (-(total + float(scores[token])), token, parent, float(scores[token]))
            for token in tokens if scores[token] > -np.inf
        ]

    def _achieved(self, continuation: Ranked) -> int:
        _, token, parent, _ = continuation
        return self._gains[parent].get(token, self._progress[parent].whole)

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
