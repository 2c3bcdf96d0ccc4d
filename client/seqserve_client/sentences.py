"""Where sentences end: rules, one pass, any script that marks the end of a sentence.

A sentence ends behind a terminal mark and the quotes and brackets that close there, if space follows (which the marks
of Chinese, Japanese, Indic scripts, Armenian, Burmese, Khmer and Amharic do not need), and what follows could open one.
Where it is doubtful, nothing is split: two sentences together are translated almost as well as each alone, half a
sentence is not. So these are no ends:

* a full stop behind an abbreviation, an initial, a list's number, or, in languages that write so, an ordinal number
  (:mod:`seqserve_client.abbreviations`);
* any mark before a word in lower case: "Yahoo! is", "Wait... what", "\"Stop!\" he said" ("iPhone" is no such word);
* a mark inside a bracket that the sentence did not begin with: "(see p. 3!) Then";
* "!" and "?" before a closing quote and a word that could be the speaker's name: "\"Stop!\" Bob said";
* "……", and a closing quote that text follows at once, in Chinese and Japanese, but for "。" and a quote.

Thai, Lao and Tibetan mark no end that could be told from other spaces: their lines stay whole.
"""

import re
from collections.abc import Iterator

from seqserve_client.abbreviations import Abbreviations, abbreviations_of, code_of

WIDE = "。！？｡．"  # full width: no space need follow
SCRIPT = "।॥։။៕።፧۔؟꘎꯫᙮᠃᠉"  # the ends of scripts that use them for nothing else: no space need follow either
NARROW = ".!?…‥‼⁇⁈⁉;\u037e"  # the last two are question marks in Greek
CLOSERS = "\"'”’»«“‘›‹)]}」』）】》〉］｝〟"
BRACKETS = ")]}）】］｝"
OPENERS = "\"'“‘«»„‚‹›([{「『（【《〈［｛—–-"
OPENING_BRACKETS = "([{（【［｛"
INVERTED = "¿¡"
LONGEST_WORD = 24  # what is longer is no abbreviation
LONGEST_OPENING = 16  # quotes, brackets and dashes before a first word; an endless row of them is none

_TERMINAL = re.compile(
    f"[{re.escape(WIDE + SCRIPT + NARROW)}]+(?P<closers>[{re.escape(CLOSERS)}]*)"
    # French quotes stand apart; a German one that opens stands before its word.
    r"(?P<apart>[ \u00a0\u202f]»(?=[\s.,;:!?)]|$))?"
)
_SPACE = re.compile(r"\s+")
_OPENING = re.compile(rf"[\s{re.escape(OPENERS)}]{{0,{LONGEST_OPENING}}}")
_WORD = re.compile(r"[\w'’]+")
_ROMAN = re.compile(r"[IVX]{1,5}|[ivx]{1,5}")
_INITIALS = re.compile(r"(?:\w\.-?)*\w")
_MARKER = re.compile(rf"[\W_]*(?:\d{{1,3}}(?:\.\d{{1,3}}){{0,5}}|{_ROMAN.pattern}|[A-Za-z])[.)]*")


def sentence_spans(line: str, language: str | None = None) -> Iterator[tuple[int, int]]:
    """Spans of the sentences of one line; between them, before and behind is nothing but space.

    Args:
        line: Without line breaks, of any length; the time is linear in it.
        language: Code such as "en", "en_XX" or "eng_Latn"; for None abbreviations of all languages count.
    """
    rules, greek = abbreviations_of(language), language is not None and code_of(language) == "el"
    start = len(line) - len(line.lstrip())
    length = len(line.rstrip())
    for found in _TERMINAL.finditer(line, start, length):
        end = found.end()
        if end < length and end > start and _ends(line, start, found, rules, greek=greek):
            yield start, end
            space = _SPACE.match(line, end)
            start = space.end() if space else end
    if start < length:
        yield start, length


def _ends(line: str, start: int, found: re.Match[str], rules: Abbreviations, *, greek: bool) -> bool:
    """Whether the sentence that began at ``start`` ends behind this mark; there is text behind it."""
    marks, closers = line[found.start() : found.start("closers")], found["closers"]
    if not greek:
        marks = marks.replace(";", "").replace("\u037e", "")
    last, following = marks[-1:], line[found.end()]
    if not last:
        return False
    if any(each in BRACKETS for each in closers) and line[start] not in OPENING_BRACKETS:
        return False
    if last in WIDE:
        return _wide_ends(line, found, closers, following)
    if not following.isspace():
        if last in SCRIPT:
            return following.isalnum() or following in OPENERS + INVERTED
        return last in "!?" and not closers and _wide(following)  # half width among Chinese and Japanese
    opening = _OPENING.match(line, found.end())
    begin = opening.end() if opening else found.end()
    if begin >= len(line) or line[begin] in INVERTED:
        return True
    found_word = _WORD.match(line, begin)
    word = found_word[0] if found_word else ""
    if word and word[0].islower() and not word[1:2].isupper() and not line.startswith(")", begin + 1):  # "(b)"
        return False
    if last == "." and len(marks) == 1 and not found["apart"]:
        return _full_stop_ends(line, start, found.start(), word, rules)
    quoted = bool(closers.strip(BRACKETS)) and last in "!?"
    named = quoted and word[:1].isupper() and not line[found.end() : begin].strip()
    return not named or not rules.opens or word.lower() in rules.opens


def _wide_ends(line: str, found: re.Match[str], closers: str, following: str) -> bool:
    """The same for marks of full width, behind which text may follow at once."""
    mark = line[found.start("closers") - 1]
    if mark == "．" and not closers:  # also a decimal point
        return not following.isdigit()
    if not closers or following.isspace():
        return True
    # A quote inside a sentence goes on with a particle, or, behind "!", with who said it.
    return mark in "。｡" and following not in "とってだなのをはがも、，,；：" and not found["apart"]


def _full_stop_ends(line: str, start: int, stop: int, following: str, rules: Abbreviations) -> bool:
    """Whether a full stop at ``stop`` ends the sentence, by the words on both sides of it."""
    if _MARKER.fullmatch(line, start, min(stop, start + LONGEST_WORD)) and stop - start < LONGEST_WORD:
        return False  # so far only a list's number
    begin = max(start, stop - LONGEST_WORD)
    words = line[begin:stop].split()
    if not words:
        return True
    if len(words) == 1 and begin > start and not line[begin - 1].isspace():
        return True  # too long for an abbreviation
    last = words[-1].lstrip(OPENERS)
    short = last.lower()
    opens = following.lower() in rules.opens
    if short in rules.never:
        return False
    if short in rules.number or (rules.ordinals and short.endswith("str")):
        return not (following[:1].isdigit() or (following != "I" and _ROMAN.fullmatch(following)))
    if short in rules.rarely:
        # Of languages without a list of what opens a sentence, the capital letter has to do.
        return opens if rules.opens and short not in _LISTS else following[:1].isalpha()
    if _INITIALS.fullmatch(last) and last[-1].isalpha():
        return opens
    if rules.ordinals and ((last.isdigit() and len(last) <= 3) or (_ROMAN.fullmatch(last) and last.isupper())):
        return opens
    return True


_LISTS = {"etc", "usw", "ecc", "enz", "itd", "atd"}  # they end lists, and lists end sentences


def _wide(character: str) -> bool:
    return "\u2e80" <= character <= "\uffef" or character >= "\U00020000"
