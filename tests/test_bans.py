"""Tokens that may not come next, against all that is in a history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.decoding.bans import Suppression, repeated

TOKENS = st.lists(st.integers(0, 4), max_size=24).map(tuple)


@given(TOKENS, st.integers(1, 5))
def test_a_sequence_comes_once(history: tuple[int, ...], size: int) -> None:
    before = {history[place : place + size] for place in range(len(history) - size + 1)}
    expected = {token for token in range(5) if (*history, token)[-size:] in before}
    assert repeated(history, size) == expected


@given(TOKENS, st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), max_size=6))
def test_a_suppressed_sequence_is_not_finished(history: tuple[int, ...], sequences: list[tuple[int, ...]]) -> None:
    suppression = Suppression(sequences)
    banned = suppression.after(history) | suppression.always
    for token in range(5):
        after = (*history, token)
        assert (token in banned) == any(after[-len(each) :] == each for each in sequences)


@pytest.mark.parametrize(("history", "size", "expected"), [
    ((), 1, set()), ((3,), 1, {3}), ((3,), 2, set()), ((3, 3), 2, {3}), ((2, 5, 6, 2, 5), 3, {6}),
    ((2, 5, 6, 2, 5), 99, set()), ((2, 7, 2, 8, 2), 2, {7, 8}),
])
def test_repetition_by_hand(history: tuple[int, ...], size: int, expected: set[int]) -> None:
    assert repeated(history, size) == expected
