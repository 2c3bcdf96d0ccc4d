"""Streamed text on a screen: no word is broken, however it arrives."""

import itertools
import textwrap
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_terminal import drawn, lines
from seqserve_cli.word_wrap import WordWrap, units

SENTENCE = "Eine Gruppe junger Leute in kompletter Kleidung steht vor einem großen alten Gebäude."


def shown(pieces: list[str], columns: int) -> list[str]:
    wrap = WordWrap(lambda: columns)
    return lines(drawn("".join(map(wrap.push, pieces)), columns, height=60))


def pieces_of(text: str, ends: list[int]) -> list[str]:
    places = sorted({0, *(end % (len(text) + 1) for end in ends), len(text)})
    return [text[first:end] for first, end in itertools.pairwise(places)]


@settings(max_examples=60)
@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=1, max_size=30), st.integers(10, 40),
    st.lists(st.integers(0, 10_000), max_size=40),
)
def test_lines_end_where_a_whole_text_would_be_broken(words: list[str], columns: int, ends: list[int]) -> None:
    text = " ".join(words)
    assert shown(pieces_of(text, ends), columns) == textwrap.wrap(text, columns - 1)


@settings(max_examples=60)
@given(
    st.text("ab .,日本。「」e\u0301👍🇩\u200d한국\n", max_size=40), st.integers(3, 12),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_nothing_is_lost_and_no_line_is_too_long_in_any_script(text: str, columns: int, ends: list[int]) -> None:
    """The last column is the one where terminals would break a line by themselves."""
    wrap = WordWrap(lambda: columns)
    screen = drawn("".join(map(wrap.push, pieces_of(text, ends))), columns, height=60)
    assert letters("".join(lines(screen))) == letters(text)
    assert all(row[columns - 1].data == " " for row in screen.buffer.values())


def letters(text: str) -> str:
    """Without spaces, joiners and accents: pyte draws neither of the last two where there is no letter before."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if letter not in " \n\u200d\u0301")


def test_each_piece_is_shown_at_once_and_a_word_that_grows_too_long_moves() -> None:
    wrap = WordWrap(lambda: 12)
    written = ""
    for piece, screen in [
        ("Hallo", ["Hallo"]), (" Don", ["Hallo Don"]), ("au", ["Hallo Donau"]), ("dampf", ["Hallo", "Donaudampf"]),
        (" der", ["Hallo", "Donaudampf", "der"]), ("", ["Hallo", "Donaudampf", "der"]),
    ]:
        written += wrap.push(piece)
        assert lines(drawn(written, 12)) == screen


def test_a_word_longer_than_a_line_is_broken_at_the_margin() -> None:
    text = "ab " + "x" * 25 + " cd"
    assert shown(list(text), 11) == shown([text], 11) == ["ab", "x" * 10, "x" * 10, "xxxxx cd"]


def test_scripts_without_spaces_are_broken_between_letters_and_not_before_a_full_stop() -> None:
    assert shown(list("日本語のテキスト。次の文"), 11) == ["日本語のテ", "キスト。次", "の文"]
    assert shown(list("日本語のテ。次"), 11) == ["日本語の", "テ。次"]
    assert shown(list("한국어 텍스트입니다"), 14) == ["한국어", "텍스트입니다"]


def test_more_text_lengthens_the_last_unit_and_changes_no_other() -> None:
    text = "Zwei  Hunde, 日本。「x」e\u0301\n👍🏽 spielen"
    for end in range(1, len(text)):
        before, after = list(units(text[:end])), list(units(text))
        assert after[: len(before) - 1] == before[:-1]
        assert after[len(before) - 1].startswith(before[-1])


def test_a_window_that_changes_breaks_no_word_that_comes_after() -> None:
    width = 40
    wrap = WordWrap(lambda: width)
    wrap.push(SENTENCE[:30])
    width = 20
    rest = wrap.push(SENTENCE[30:])
    # Thirty cells are a line of twenty and ten: eight more fit before the margin.
    assert rest.splitlines()[0].rstrip() == SENTENCE[30:38]
    assert all(len(line) < 20 for line in rest.splitlines())
    assert "\033" not in rest


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_window_too_narrow_for_anything_ends_nothing(columns: int) -> None:
    wrap = WordWrap(lambda: columns)
    assert "".join(wrap.push("ab 日本").split()) == "ab日本"
