"""An alignment in characters: a row for each target token, two cells for each source token, its name above, downwards.

What is wider than the terminal is drawn in blocks, one below the other. Shades are characters that mix the colour of
writing with that of the background, so they are right on light and dark ones; colours add which source token a target
token attended to most.
"""

import unicodedata
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from seqserve_cli import cells, terminal
from seqserve_cli.attention_maps import labels_of, weights_of

SHADES = ("  ", "░░", "▒▒", "▓▓", "██")
FAINT, FAINTEST = "··", 0.05  # what is too little for a shade, from so much on
MOST_LABEL = 24  # cells of a target token's name; in a narrow terminal a third of the line
MOST_HEADING = 20  # letters of a source token's name
WEIGHT, HIGHEST, DIM = "\033[94m", "\033[91m", "\033[2m"
# About letters that run from right to left, so that a terminal that reorders a line leaves columns in their order.
LEFT_TO_RIGHT = "\u200e"
FROM_RIGHT = ("R", "AL", "AN")


@dataclass(frozen=True, slots=True)
class Look:
    """How to draw: ``columns`` to fold at (0: nowhere), with colours or not, and whether a cursor can be placed."""

    columns: int = 0
    coloured: bool = False
    placed: bool = False


def shades(result: Any, look: Look) -> str:
    """The drawing, without the last line end. ``result`` as for ``attention_maps``."""
    source, target = (list(map(_shown, tokens)) for tokens in labels_of(result))
    rows = weights_of(result)
    most = min(MOST_LABEL, max(look.columns // 3, 4)) if look.columns else MOST_LABEL
    target = [cells.cut(token, most) for token in target]
    margin = max(map(cells.width, target), default=0) + 1
    count = max(len(source), 1)
    step = min(max((look.columns - margin) // 2, 1), count) if look.columns else count
    step = -(-count // -(-count // step))  # as many blocks, of the same width
    drawn = []
    for first in range(0, count, step):
        end = min(first + step, count)
        if step < count:
            above = [] if not first else [""]
            drawn += [*above, _styled(f"source tokens {first} to {end - 1} of 0 to {count - 1}", DIM, look)]
        drawn += _heading(source[first:end], margin, look)
        drawn += [_row(token, row, first, end, margin, look) for token, row in zip(target, rows, strict=True)]
    return "\n".join(drawn)


def _shown(token: str) -> str:
    """With nothing in it that moves the cursor, and a circle to carry what has no cell of its own."""
    token = cells.visible(token)
    return token if not token or cells.width(next(cells.graphemes(token))) else "◌" + token


def _heading(source: list[str], margin: int, look: Look) -> list[str]:
    names = [list(cells.graphemes(token)) for token in source]
    names = [name if len(name) <= MOST_HEADING else [*name[:MOST_HEADING - 1], "⋮"] for name in names]
    height = max(map(len, names), default=0)
    lines = []
    for line in range(height):
        letters = [name[line - height] if line >= height - len(name) else " " for name in names]
        places = range(margin, margin + 2 * len(letters), 2)
        text = "".join(_padded(letter, 2, place, look) for letter, place in zip(letters, places, strict=True))
        lines.append((" " * margin + text).rstrip())
    return lines


def _padded(text: str, width: int, column: int, look: Look) -> str:
    """In so many cells from ``column`` on; the cursor is put behind what terminals draw in different ways."""
    inside = f"{LEFT_TO_RIGHT}{text}{LEFT_TO_RIGHT}" if _turns(text) else text
    if look.placed and not cells.certain(text):
        return f"{inside}\033[{column + width + 1}G"
    return inside + " " * (width - cells.width(text))


def _turns(text: str) -> bool:
    return not text.isascii() and any(unicodedata.bidirectional(letter) in FROM_RIGHT for letter in text)


def _row(token: str, weights: list[float], first: int, end: int, margin: int, look: Look) -> str:
    highest = weights.index(max(weights))
    filled = [(_shade(weight), HIGHEST if place == highest else WEIGHT) for place, weight in enumerate(weights)]
    runs = groupby(filled[first:end], key=lambda cell: cell[1] if cell[0].strip() else "")
    drawn = [_styled("".join(shade for shade, _ in run), style, look) for style, run in runs]
    if drawn and drawn[-1].isspace():
        drawn.pop()
    return (_padded(token, margin, 0, look) + "".join(drawn)).rstrip()


def _shade(weight: float) -> str:
    level = min(round(weight * 4), 4)
    return FAINT if level == 0 and weight >= FAINTEST else SHADES[level]


def _styled(text: str, style: str, look: Look) -> str:
    return f"{style}{text}{terminal.RESET}" if look.coloured and style else text
