"""How many cells of a terminal a text takes, and where it may be cut.

Widths are those of Unicode's East Asian Width (UAX #11), and clusters a part of its rules for graphemes (UAX #29): what
terminals agree on. They differ on emoji that are made of several characters; ``certain`` tells those apart, and who
draws a table puts the cursor behind them by its column (``attention_shades``). A library with larger tables would know
newer emoji than Python does, and no more about which terminal is in use.
"""

import unicodedata
from collections.abc import Collection, Iterator
from functools import lru_cache

JOINER = "\u200d"
VARIATIONS = frozenset(map(chr, range(0xFE00, 0xFE10)))
AS_EMOJI = "\ufe0f"
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
# Hangul vowels and final consonants, drawn into the syllable that an initial consonant begins.
SYLLABLE_PARTS = frozenset(map(chr, [*range(0x1160, 0x1200), *range(0xD7B0, 0xD800)]))
# Turn or embed what follows them, beyond the text that they are in.
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
KEPT = frozenset("\n\t") | TURNING  # in a text that is read, and not laid out
SOFT_HYPHEN = "\u00ad"  # a format character that terminals draw


def visible(text: str, kept: Collection[str] = "") -> str:
    """The text with pictures for what would move the cursor, change colours or turn the line.

    Args:
        kept: Characters that are left as they are.
    """
    return "".join(letter if letter in kept or letter.isprintable() else _picture(letter) for letter in text)


def _picture(letter: str) -> str:
    """Itself for what is unprintable to Python and harmless: spaces, joiners, what is newer than its tables."""
    code = ord(letter)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return "\ufffd" if letter in TURNING or unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter


@lru_cache(maxsize=4096)
def _cells(letter: str) -> int:
    if letter in SYLLABLE_PARTS or (unicodedata.category(letter) in ("Mn", "Me", "Cf") and letter != SOFT_HYPHEN):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def graphemes(text: str) -> Iterator[str]:
    """What is drawn as one: a letter with its marks, an emoji of several characters, a flag, a syllable of Hangul."""
    cluster = ""
    for letter in text:
        if cluster and not _joins(cluster, letter):
            yield cluster
            cluster = letter
        else:
            cluster += letter
    if cluster:
        yield cluster


def _joins(cluster: str, letter: str) -> bool:
    if _cells(letter) == 0 or unicodedata.category(letter) == "Mc":
        return True
    if letter in FLAG_LETTERS:
        return cluster in FLAG_LETTERS
    if letter in SKIN_TONES or cluster[-1] == JOINER:  # other scripts have joiners too, which make no cluster
        return {unicodedata.category(cluster[0]), unicodedata.category(letter)} <= {"So", "Sm", "Sk"}
    return False


def _width(cluster: str) -> int:
    if cluster[0] in FLAG_LETTERS or AS_EMOJI in cluster[1:]:
        return 2
    return max(map(_cells, cluster))


def width(text: str) -> int:
    """Cells of a text without control characters."""
    if text.isascii():
        return len(text)
    return sum(map(_width, graphemes(text)))


def most(text: str) -> int:
    """Cells of a text in a terminal that draws every character of it by itself; at least ``width``."""
    return len(text) if text.isascii() else sum(max(_width(each), sum(map(_cells, each))) for each in graphemes(text))


def certain(text: str) -> bool:
    """Whether all terminals agree on its width: nothing but single characters and marks above or below them."""
    if text.isascii():
        return True
    return FLAG_LETTERS.isdisjoint(text) and all(
        unicodedata.category(letter) in ("Mn", "Me") and letter not in VARIATIONS
        for cluster in graphemes(text) for letter in cluster[1:]
    )


def cut(text: str, most: int) -> str:
    """The text, or as much of it as fits into ``most`` cells with an ellipsis behind it."""
    if width(text) <= most:
        return text
    kept, left = "", most - 1
    for cluster in graphemes(text):
        left -= _width(cluster)
        if left < 0:
            break
        kept += cluster
    return kept + "…"
