"""Tokens that may not come next, by what came before. Rules as in transformers' logits processors."""

from collections.abc import Sequence

Tokens = tuple[int, ...]


class Suppression:
    """Tokens that never come, and sequences of which the last token does not follow the others.

    transformers' ``suppress_tokens`` and ``bad_words_ids``; CTranslate2's ``suppress_sequences``. A sequence may begin
    in the prompt.
    """

    __slots__ = ("_by_last", "always")

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self.always = frozenset(each[0] for each in sequences if len(each) == 1)
        self._by_last: dict[int, list[tuple[Tokens, int]]] = {}
        for *before, token in dict.fromkeys(sequences):
            if before:
                self._by_last.setdefault(before[-1], []).append((tuple(before), token))

    def after(self, history: Tokens) -> set[int]:
        """Last tokens of the sequences that need only them."""
        waiting = self._by_last.get(history[-1], ()) if history else ()
        return {token for before, token in waiting if history[-len(before) :] == before}


def repeated(history: Tokens, size: int) -> set[int]:
    """Tokens with which a sequence of ``size`` tokens would come a second time (transformers' no_repeat_ngram_size)."""
    if size == 1:
        return set(history)
    found: set[int] = set()
    first = len(history) - size + 1  # of the tokens that wait for another
    if first < 1:
        return found
    tail = history[first:]
    place = -1
    try:
        while True:
            place = history.index(tail[0], place + 1, first)
            if history[place : place + size - 1] == tail:
                found.add(history[place + size - 1])
    except ValueError:  # no more of them
        return found
