"""The map of an alignment on a screen: in its place, whatever the script, the width and the colours."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from pseudo_terminal import colours, drawn, lines
from seqserve_cli.attention_shades import Look, shades

WORDS = ["▁A", "▁man", "▁is", "▁rid", "ing", "▁a", "▁horse", ".", "</s>"]


def aligned(source: list[str], target: list[str], rows: list[list[float]] | None = None) -> Any:
    """Each target token attends to the source token at its own place, where nothing else is said."""
    if rows is None:
        rows = [[float(place == row) for place in range(len(source))] for row in range(len(target))]
    return SimpleNamespace(
        source_tokens=source, tokens=target, token_ids=[5] * len(target), alignment=rows, input_token_count=len(source)
    )


def test_a_weight_has_the_shade_of_its_size() -> None:
    rows = [[0.04, 0.05, 0.12, 0.13, 0.37], [0.38, 0.62, 0.63, 0.87, 0.88]]
    assert shades(aligned(list("abcde"), ["x", "y"], rows), Look()).splitlines() == [
        "  a b c d e", "x   ····░░░░", "y ▒▒▒▒▓▓▓▓██"
    ]


def test_without_a_tokenizer_places_and_ids_stand_for_tokens() -> None:
    result = aligned([], [], [[0.0, 1.0]])
    result.token_ids, result.input_token_count = [17], 2
    assert shades(result, Look()) == "   0 1\n17   ██"


def test_what_is_too_wide_goes_on_in_blocks_of_about_the_same_width() -> None:
    source = [*"abcdefghij"]
    drawing = shades(aligned(source, ["xx", "yy"], [[0.0] * 9 + [1.0], [1.0] + [0.0] * 9]), Look(20))
    assert drawing.splitlines() == [
        "source tokens 0 to 4 of 0 to 9",
        "   a b c d e",
        "xx",
        "yy ██",
        "",
        "source tokens 5 to 9 of 0 to 9",
        "   f g h i j",
        "xx         ██",
        "yy",
    ]


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
@pytest.mark.parametrize("count", [1, 9, 60])
def test_no_line_of_the_map_is_wider_than_the_terminal_and_each_weight_is_there_once(columns: int, count: int) -> None:
    source = [WORDS[place % len(WORDS)] for place in range(count)]
    drawing = shades(aligned(source, source), Look(columns, coloured=True))
    map_lines = [re.sub("\033\\[.*?m", "", line) for line in drawing.splitlines() if "source tokens" not in line]
    assert max(map(len, map_lines)) <= columns
    assert "".join(map_lines).count("██") == count


def test_long_names_are_cut_and_shown_to_be() -> None:
    long = "Donaudampfschifffahrtsgesellschaft"
    drawing = shades(aligned([long, "x"], [long]), Look(30)).splitlines()
    assert drawing[-1] == "Donaudamp… ██"
    assert [line.strip() for line in drawing[:-1]] == [*long[:19], "⋮ x"]
    assert shades(aligned(["x"], [long]), Look()).splitlines()[1] == f"{long[:23]}… ██"


FAMILY, HEART, FLAG = "👨\u200d👩\u200d👧", "❤\ufe0f", "🇩🇪"


@pytest.mark.parametrize("tokens", [
    ["▁日本", "語", "x"], ["한국", "x"], ["e\u0301te\u0301", "n\u0303", "x"], [FAMILY, HEART, FLAG, "x"],
    ["שלום", "مرحبا", "x"], ["\u0301", "\u200d", "x"], ["नमस्ते", "กำลัง", "x"],
])
def test_the_diagonal_is_one_in_every_script(tokens: list[str]) -> None:
    screen = drawn(shades(aligned(tokens, tokens), Look(80, placed=True)))
    rows = lines(screen)[-len(tokens):]
    cells = [[screen.buffer[row][column].data for column in range(80)] for row in range(screen.lines)]
    first = len(lines(screen)) - len(rows)
    starts = [cells[first + row].index("█") for row in range(len(rows))]
    assert starts == list(range(starts[0], starts[0] + 2 * len(tokens), 2))
    # The name of the last token, "x", stands above its column, and so does the first letter of every other.
    assert cells[first - 1][starts[-1]] == "x"
    assert all(cells[first - 1][start].strip() for start in starts)


def test_letters_from_the_right_are_kept_in_their_columns() -> None:
    """A terminal that reorders lines takes neighbours that run from the right for one word, spaces and all."""
    heading = shades(aligned(["א", "ב"], ["א"]), Look()).splitlines()
    assert heading == ["  \u200eא\u200e \u200eב\u200e", "\u200eא\u200e ██"]


def test_colours_show_the_most_attended_token_and_are_off_at_every_end() -> None:
    result = aligned(["a", "b", "c"], ["x", "y"], [[0.2, 0.5, 0.3], [0.3, 0.1, 0.6]])
    plain, coloured = (shades(result, Look(80, colour)) for colour in (False, True))
    screen = drawn(coloured, 80)
    assert lines(screen) == plain.splitlines()
    assert colours(screen, 1) == {2: "brightblue", 3: "brightblue", 4: "brightred", 5: "brightred", 6: "brightblue",
                                  7: "brightblue"}
    assert set(colours(screen, 2).values()) == {"brightblue", "brightred"}
    assert colours(screen, 0) == {}
    assert "\033" not in plain
    for line in coloured.splitlines()[1:]:
        assert line.endswith("\033[0m")


def test_a_token_gives_the_terminal_no_orders() -> None:
    drawing = shades(aligned(["\x1b[2J", "\n"], ["\x1b]0;title\x07", "\r"]), Look(80))
    assert "\x1b" not in drawing
    assert "\r" not in drawing
    assert "␛]0;title␇ ██" in drawing
    assert len(drawing.splitlines()) == 4 + 2


def test_an_answer_of_nothing_is_a_heading() -> None:
    assert shades(aligned(["a", "b"], []), Look(80)) == " a b"
