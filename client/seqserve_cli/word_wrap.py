"""Streamed text in a terminal: each piece is shown as it comes, and no word is broken at the margin.

How long a word becomes is not known when its first piece is shown. Waiting for its end would hold back every word, so a
word that turns out too long for its line is erased there and begins the next one.
"""

import unicodedata
from collections.abc import Callable, Iterator

from seqserve_cli import cells

ERASE = "\033[{}D\033[K"  # so many cells to the left, and all from there on
BEHIND, BEFORE = ("Po", "Pe", "Pf"), ("Ps", "Pi")  # punctuation that begins no line, and that ends none


def units(text: str) -> Iterator[str]:
    """What no line may end within: words, runs of spaces, line ends, and letters of scripts without spaces.

    Those are the wide ones but for Hangul, with the punctuation about them. More text can lengthen the last unit, and
    changes no other.
    """
    unit = ""
    for cluster in cells.graphemes(text):
        if unit and not _together(unit, cluster):
            yield unit
            unit = ""
        unit += cluster
    if unit:
        yield unit


def _together(unit: str, cluster: str) -> bool:
    if "\n" in (cluster, unit):
        return False
    if unit.isspace() or cluster.isspace():
        return unit.isspace() and cluster.isspace()
    if unicodedata.category(cluster[0]) in BEHIND or unicodedata.category(unit[-1]) in BEFORE:
        return True
    return not _alone(cluster) and not _alone(unit[-1])


def _alone(cluster: str) -> bool:
    return cells.width(cluster) > 1 and not "\uac00" <= cluster[0] <= "\ud7a3"


class WordWrap:
    """What to write for each piece of a text, so that lines end between words.

    The last column stays empty: terminals disagree on where the cursor is once it is filled.

    Args:
        columns: The width of the terminal now; it is asked for each piece, because windows change.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._width = columns()
        self._start = 0  # the column where the last unit begins
        self._unit = ""  # as much as is shown of the last unit, which may go on

    def push(self, text: str) -> str:
        """The next piece; control characters become visible."""
        text = cells.visible(text, cells.KEPT).expandtabs(1)
        if (width := self._columns()) != self._width:
            # The terminal has folded its lines anew: the column is known, and whether the word lies on one line is not.
            self._start, self._unit, self._width = self._end() % width, "", width
        shown = self._unit
        written = ""
        for unit in units(shown + text):
            if not shown:
                self._start, self._unit = self._end(), ""
            written += self._go_on(unit)
            shown = ""
        return written

    def _end(self) -> int:
        return self._start + cells.most(self._unit)

    def _go_on(self, unit: str) -> str:
        """Show the rest of a unit, of which ``self._unit`` is there from ``self._start`` on."""
        rest, limit = unit[len(self._unit):], max(self._width - 1, 1)
        if unit == "\n":
            self._start, self._unit = 0, ""
            return rest
        if self._start + cells.most(unit) <= limit:
            self._unit = unit
            return rest
        if unit.isspace():  # at a margin there is nothing to see of it
            self._start, self._unit = limit - len(unit), unit
            return ""
        written = ""
        if self._start and cells.certain(self._unit):
            written = (ERASE.format(cells.width(self._unit)) if self._unit else "") + "\n"
            self._start, self._unit, rest = 0, "", unit
        for cluster in cells.graphemes(rest):
            if self._unit and self._start + cells.most(self._unit + cluster) > limit:
                written += "\n"
                self._start, self._unit = 0, ""
            written += cluster
            self._unit += cluster
        return written
