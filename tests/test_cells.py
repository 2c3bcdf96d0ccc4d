"""Widths of text in a terminal, held against the tables of wcwidth."""

import unicodedata

import pytest
import wcwidth

from seqserve_cli import cells

# Where the two differ on purpose or by their version of Unicode, and where terminals do as well.
SPACING_MARKS = "Mc"  # wcwidth counts those with the letter before
NEWER = [range(0x2630, 0x2638), range(0x268A, 0x2690), range(0x4DC0, 0x4E00), range(0x1D300, 0x1D377)]
FILLERS = {0x3164, 0xFFA0}
ARABIC_SIGNS = [range(0x600, 0x606), range(0x6DD, 0x6DE), range(0x70F, 0x710), range(0x890, 0x892), range(0x8E2, 0x8E3)]
KAITHI_SIGNS = [range(0x110BD, 0x110BE), range(0x110CD, 0x110CE)]
EXCEPT = FILLERS.union(*NEWER, *ARABIC_SIGNS, *KAITHI_SIGNS)


def test_every_character_takes_as_many_cells_as_in_the_tables_of_terminals() -> None:
    differing = []
    for code in (*range(0x20, 0x3400), *range(0xA000, 0xAC80), *range(0xD7A0, 0xD800), *range(0xF900, 0x20000)):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cc", "Cn", "Co", "Cs", "Zl", "Zp", SPACING_MARKS) or code in EXCEPT:
            continue
        if cells.width(letter) != wcwidth.wcwidth(letter):
            differing.append(hex(code))
    assert differing == []


@pytest.mark.parametrize(("text", "width", "certain"), [
    ("dogs", 4, True), ("", 0, True), ("日本", 4, True), ("e\u0301t\u00e9", 3, True), ("שָׁלוֹם", 4, True),
    ("👨\u200d👩\u200d👧", 2, False), ("❤\ufe0f", 2, False), ("🇩🇪", 2, False), ("🇩🇪🇫🇷", 4, False), ("👍🏽", 2, False),
    ("한", 2, True), ("\u1112\u1161\u11ab", 2, False), ("कि", 1, False), ("1\ufe0f\u20e3", 2, False),
])
def test_what_is_drawn_as_one_is_counted_as_one(text: str, width: int, certain: bool) -> None:
    assert (cells.width(text), cells.certain(text)) == (width, certain)
    assert cells.most(text) >= width


@pytest.mark.parametrize(("text", "clusters"), [
    ("ae\u0301b", ["a", "e\u0301", "b"]), ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]), ("👨\u200d👩x", ["👨\u200d👩", "x"]),
    ("👍🏽👍", ["👍🏽", "👍"]),
    ("a\u200db", ["a\u200d", "b"]), ("कि", ["कि"]),
])
def test_a_text_is_cut_between_what_is_drawn_as_one(text: str, clusters: list[str]) -> None:
    assert list(cells.graphemes(text)) == clusters == list(wcwidth.iter_graphemes(text))


def test_what_does_not_fit_is_cut_and_shown_to_be() -> None:
    assert [cells.cut("日本語", most) for most in (6, 5, 4, 3, 2)] == ["日本語", "日本…", "日…", "日…", "…"]
    assert cells.cut("e\u0301te\u0301s", 3) == "e\u0301t…"


def test_nothing_that_gives_a_terminal_orders_is_left() -> None:
    assert cells.visible("a\x1b[31mb\r\n\x7f\x9b2J\u202e\u2028") == "a␛[31mb␍␊␡\ufffd2J\ufffd\ufffd"
    assert cells.visible("a\n\tb\u200f\x1b", cells.KEPT) == "a\n\tb\u200f␛"
    for text in ("Größe", "日本\u3000語", "👨\u200d👩", "שָׁלוֹם", "a\u00a0b"):
        assert cells.visible(text) == text
