"""Beam search: the best continuations of all live hypotheses live on, under four rules for when it is over.

What may end, what lives on and what is kept follow transformers' ``generate`` and, for ``Stopping.PATIENCE``,
CTranslate2's ``translate_batch``; bench/peers/beam_parity.py compares. There the best 2 * beam_size continuations
count: of the first beam_size, those with an end token end; the first beam_size without one live on. A hypothesis has
one end token, so its best beam_size + 1 tokens are all that can matter.
"""

import math
from bisect import insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import (
    Advance,
    Continuation,
    Hypothesis,
    SearchSettings,
    Stopping,
    normalised,
)

Ranked = tuple[float, int, int, float]  # total, negated; token; parent; the token's log-probability: sorts best first


class _Node:
    """One token of a trie of hypotheses.

    Attributes:
        kept: How many answers or parts of answers begin here and go on: children that can still become the best
            answer, and the best ended hypothesis if it ended here.
    """

    __slots__ = ("kept", "length", "log_prob", "parent", "token", "total")

    def __init__(self, parent: "_Node | None", token: int, log_prob: float, total: float, length: int) -> None:
        self.parent, self.token, self.log_prob, self.total, self.length = parent, token, log_prob, total, length
        self.kept = 0


# Score, negated; when it was found; its last token other than the end; log-probability of its end, None if cut off.
_Found = tuple[float, int, _Node, float | None]


class BeamSearch:
    """Implements :class:`seqserve_server.decoding.search.Search` with up to ``beam_size`` hypotheses.

    Of equal scores the lower token goes first, then the lower parent, and of ended hypotheses the earlier. If the
    vocabulary is so small that there are fewer continuations than hypotheses wanted, there are fewer hypotheses.
    Log-probabilities are taken to be at most 0: what ``stable`` tells stands on it.
    """

    __slots__ = ("_count", "_found", "_hopeful", "_length", "_live", "_settings", "_told", "_top_ended", "_wanted")

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._told = _Node(None, -1, 0.0, 0.0, 0)  # every answer begins with the tokens down to here
        self._live = [self._told]
        self._hopeful = self._live  # those of them that can still become the best answer
        self._found: list[_Found] = []  # best first
        self._count = self._length = 0  # hypotheses that ended, tokens generated
        self._top_ended = False  # whether the best continuation of some step ended
        # As CTranslate2 rounds, who refuses to return more than this.
        self._wanted = max(math.floor(settings.beam_size * settings.patience + 0.5), settings.num_hypotheses)

    @property
    def candidates(self) -> int:
        """One more than hypotheses: one of them may be an end token."""
        return self._settings.beam_size + 1

    @property
    def wants_logits(self) -> bool:
        """The best tokens say enough."""
        return False

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take one step."""
        del logits  # not asked for
        self._length += 1
        return self._take(self._ranked(token_ids, log_probs, self._length >= self._settings.max_new_tokens))

    def _take(self, ranked: Sequence[Ranked]) -> Advance:
        """End and go on with the best of these continuations."""
        settings, parents, length = self._settings, self._live, self._length
        beam, end = settings.beam_size, settings.end_id
        last = length >= settings.max_new_tokens
        best_before = self._found[0] if self._found else None
        if length == 1 and not last and settings.renormalise and settings.extra_length:
            ranked = _without_early_end(ranked, beam, end)
        live: list[_Node] = []
        steps: list[Continuation] = []
        for place, (total, token, parent, log_prob) in enumerate(ranked):
            if place >= beam and len(live) == beam:  # an end that ranks lower does not count either
                break
            if token == end:
                if place < beam:
                    self._end(total, parents[parent], log_prob, place)
            elif len(live) < beam:
                live.append(_Node(parents[parent], token, log_prob, -total, length))
                steps.append(Continuation(parent, token))
                if last and place < beam:
                    self._end(total, live[-1], None, place)
        self._live = live
        if last or not live or self._over():
            return self._finish()
        if self._found and self._found[0] is not best_before:
            self._found[0][2].kept += 1
        else:
            best_before = None
        return Advance(steps, self._newly_stable(best_before))

    def so_far(self) -> Hypothesis:
        """The best of the live and the ended, as if the limit were here; it begins with what was told as stable."""
        live = [(-self._score(node), self._count, node, None) for node in self._hopeful]
        return self._hypothesis(min([*self._found[:1], *live], key=lambda each: each[0]))

    def _ranked(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]], last: bool
    ) -> list[Ranked]:
        """Continuations of all live hypotheses, best first."""
        settings, live = self._settings, self._live
        end, width = settings.end_id, settings.beam_size + 1
        if last and settings.forced_end:  # there is no choice, so the log-probability is 0 (as in transformers)
            ranked = [(-node.total, end, parent, 0.0) for parent, node in enumerate(live)]
        else:
            ranked = [
                (-(node.total + log_prob), token, parent, log_prob)
                for parent, node in enumerate(live)
                for token, log_prob in zip(token_ids[parent][:width], log_probs[parent][:width], strict=True)
            ]
            if self._length <= settings.min_new_tokens:
                ranked = [each for each in ranked if each[1] != end] or ranked  # all end: nothing else may come
        ranked.sort()
        return ranked

    def _end(self, total: float, node: _Node, end_log_prob: float | None, place: int) -> None:
        """Keep a hypothesis that ended at this step, if it is good enough."""
        settings = self._settings
        insort(self._found, (normalised(total, self._length, settings), self._count, node, end_log_prob))
        self._count += 1
        self._top_ended |= place == 0
        if settings.stopping is not Stopping.PATIENCE and len(self._found) > settings.beam_size:
            self._found.pop()  # transformers keeps as many as there are beams, CTranslate2 keeps all

    def _over(self) -> bool:
        """Whether enough is found; see :class:`Stopping`."""
        settings, penalty = self._settings, self._settings.length_penalty
        if settings.stopping is Stopping.PATIENCE:
            if penalty == 0 and not settings.coverage_penalty:  # whatever the patience
                return self._top_ended and self._count >= settings.num_hypotheses
            return self._count >= self._wanted
        if self._count < settings.beam_size or settings.stopping is Stopping.FULL:
            return self._count >= settings.beam_size
        exhaustive = settings.stopping is Stopping.EXHAUSTIVE and penalty > 0
        reach = settings.max_new_tokens if exhaustive else self._length
        return normalised(self._live[0].total, reach, settings) <= -self._found[-1][0]

    def _newly_stable(self, best_before: _Found | None) -> list[int]:
        """Tokens that all answers now share, beyond those told.

        Only the best ended hypothesis counts, since those behind it stay behind it; and only live ones whose total,
        which can but fall, would still beat it at the length that flatters most.

        Args:
            best_before: The best ended hypothesis before, if it is no longer.
        """
        before = self._hopeful
        self._hopeful = self._live
        if self._found:
            best, settings = -self._found[0][0], self._settings
            most = settings.max_new_tokens if settings.length_penalty > 0 else self._length + 1
            self._hopeful = [node for node in self._live if normalised(node.total, most, settings) > best]
        for node in self._hopeful:
            _above(node).kept += 1
        if best_before is not None:
            best_before[2].kept -= 1
            _release(best_before[2])  # before those below it, which else would release it a second time
        for node in before:
            _release(node)
        if self._told.kept != 1:
            return []
        return self._walk_down(self._found[0][2] if self._found else self._live[0])

    def _walk_down(self, answer: _Node) -> list[int]:
        """Go from what was told towards an answer, as far as no other parts from it."""
        path: list[_Node] = []
        while answer is not self._told:
            path.append(answer)
            answer = _above(answer)
        tokens: list[int] = []
        while path and self._told.kept == 1:
            self._told = path.pop()
            tokens.append(self._told.token)
        return tokens

    def _finish(self) -> Advance:
        """The end of the search."""
        self._live = self._hopeful = []
        most = len(self._found) if self._settings.coverage_penalty else self._settings.num_hypotheses
        found = [self._hypothesis(each) for each in self._found[:most]]
        return Advance([], found[0].token_ids[self._told.length :], found)

    def _score(self, node: _Node) -> float:
        """Score of a live hypothesis, if it ended without an end token."""
        return normalised(node.total, node.length, self._settings)

    def _hypothesis(self, found: _Found) -> Hypothesis:
        negated, _, last, end_log_prob = found
        token_ids, log_probs = [], [] if end_log_prob is None else [end_log_prob]
        node = last
        while node.parent is not None:
            token_ids.append(node.token)
            log_probs.append(node.log_prob)
            node = node.parent
        forced = self._settings.forced_end and last.length + 1 >= self._settings.max_new_tokens
        return Hypothesis(token_ids[::-1], log_probs[::-1], -negated, end_log_prob is not None and not forced)


def _without_early_end(ranked: Sequence[Ranked], beam: int, end: int) -> Sequence[Ranked]:
    """Behind a forced prefix CTranslate2 lets nothing end at once that is not the best; the place of it is lost.

    There are no two end tokens, since all continuations have one parent.
    """
    early = next((place for place, each in enumerate(ranked[:beam]) if each[1] == end), 0)
    return [*ranked[:early], *ranked[early + 1 : beam]] if early else ranked


def _above(node: _Node) -> _Node:
    """The parent of a node that is not the root."""
    assert node.parent is not None
    return node.parent


def _release(node: _Node) -> None:
    """Take out of account a node that nothing goes on from, and those above that led only there."""
    while not node.kept:
        node = _above(node)
        node.kept -= 1
