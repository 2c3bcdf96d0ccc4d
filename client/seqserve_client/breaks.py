"""Cutting a sentence that is too long for a model: at the best place near an even cut."""

import re
from collections.abc import Iterator

# Best first: behind what ends a sentence after all, behind what ends a clause, anywhere between words. Full-width marks
# have no space behind them.
_PLACES = (
    re.compile(r"[.!?…;:؛؟۔।](?=\s)|[。！？；：｡]"),
    re.compile(r"[,،、，–—)\]](?=\s)|[，、）」』]"),
    re.compile(r"\S(?=\s)"),
)
_SPACE = re.compile(r"\s+")
_MARKS = re.compile(r"[\u0300-\u036f\u0900-\u0903\u093a-\u094f\u200d\ufe00-\ufe0f]")  # belong to the character before


def cut(text: str, parts: int) -> Iterator[tuple[int, int]]:
    """Spans of about ``parts`` parts of similar length, at least 2, between which is nothing but space.

    Args:
        text: Without space around, of at least 2 characters.
    """
    start, length = 0, len(text)
    parts = min(max(parts, 2), length)
    for part in range(1, parts):
        even = round(length * part / parts)
        if even <= start:
            continue
        reach = max(1, length // parts // 2)
        end = _place(text, max(start + 1, even - reach), even, min(length - 1, even + reach))
        yield start, end
        space = _SPACE.match(text, end)
        start = space.end() if space else end
    yield start, length


def _place(text: str, low: int, even: int, high: int) -> int:
    """Where to cut: nearest to ``even``, within low .. high; of the better kind where there is one of it."""
    for kind in _PLACES:
        ends = [found.end() for found in kind.finditer(text, max(low - 1, 0), high) if found.end() >= low]
        if ends:
            return min(ends, key=lambda end: abs(end - even))
    even = min(even, high)
    while even > low and _MARKS.match(text, even):
        even -= 1
    return even
