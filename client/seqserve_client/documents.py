"""Documents taken apart and put together: texts of any length, translated sentence by sentence. Calls nobody.

Line breaks, blank lines, indentation and the space at line ends stay. No sentence goes on behind a line break: whether
one is the paragraph's end or only the layout's cannot be told.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from seqserve_client.breaks import cut
from seqserve_client.errors import InputTooLong, InvalidInput
from seqserve_client.results import Result
from seqserve_client.sentences import sentence_spans

Split = Literal["sentences", "lines"]
SPLITS: tuple[Split, ...] = ("sentences", "lines")
# Longer ones are cut without asking the server: 65536 bytes in UTF-8, which is the most of one text there.
MOST_CHARACTERS = 16384
_INPUT = re.compile(r"inputs\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Segment:
    """What is translated at once: characters ``start`` to ``end`` of a text; with ``cut``, part of a sentence."""

    start: int
    end: int
    text: str
    cut: bool = False

    @property
    def copied(self) -> bool:
        """Whether there is nothing to translate in it: no letter, no digit."""
        return not any(each.isalnum() for each in self.text)


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of a document, and what became of it. Offsets count characters (code points), ends excluded.

    Attributes:
        source_start, source_end: Where ``source`` is in the text that was given.
        target_start, target_end: Where ``target`` is in the text that came of it.
        note: "" for a sentence; "cut" for a part of one that was over the source limit; "copied" for what has no letter
            and no digit, such as "* * *", and was not sent.
        result: The model's answer, of which ``target`` is the best, without space around; None for what was copied.
    """

    source_start: int
    source_end: int
    source: str
    target_start: int
    target_end: int
    target: str
    note: str = ""
    result: Result | None = None

    @property
    def score(self) -> float | None:
        """Of the answer."""
        return None if self.result is None else self.result.hypotheses[0].score


@dataclass(frozen=True, slots=True)
class Document:
    """A translated document.

    Attributes:
        text: The whole.
        passages: What became of every sentence, in order. Between them is nothing but space.
    """

    text: str
    passages: list[Passage] = field(default_factory=list)


def segments_of(text: str, split: str, language: str | None) -> list[Segment]:
    """Everything of a text but the space between.

    Raises:
        TypeError: no such way to split.
    """
    if split not in SPLITS:
        raise TypeError(f"split is one of {', '.join(SPLITS)}, not {split!r:.40}")
    segments: list[Segment] = []
    offset = 0
    for line in text.splitlines(keepends=True):
        spans = sentence_spans(line, language) if split == "sentences" else _whole(line)
        for start, end in spans:
            segments += _short(Segment(offset + start, offset + end, line[start:end]))
        offset += len(line)
    return segments


def _whole(line: str) -> Iterator[tuple[int, int]]:
    if stripped := line.strip():
        start = line.index(stripped[0])
        yield start, start + len(stripped)


def _short(segment: Segment) -> list[Segment]:
    size = len(segment.text)
    return parts_of(segment, -(-size // MOST_CHARACTERS) + 1) if size > MOST_CHARACTERS else [segment]


def parts_of(segment: Segment, parts: int) -> list[Segment]:
    """A segment in about so many, at least 2, each at most as long as a message may be."""
    found = (
        Segment(segment.start + start, segment.start + end, segment.text[start:end], cut=True)
        for start, end in cut(segment.text, parts)
    )
    return [short for part in found for short in _short(part)]


def shortened(batch: Sequence[Segment], error: InvalidInput, offset: int = 0) -> list[Segment]:
    """A batch that was refused, with the segment cut that was too long.

    Args:
        offset: Characters before the text that the segments are of, for the message.

    Raises:
        InvalidInput: it was refused for another reason, or no cut helps; names the sentence, where it is one.
    """
    found = _INPUT.match(error.field or "")
    if found is None or int(found[1]) >= len(batch):
        raise error
    place = int(found[1])
    segment = batch[place]
    if not isinstance(error, InputTooLong) or len(segment.text) < 2:
        message = f"characters {offset + segment.start} to {offset + segment.end}, {segment.text[:40]!r}: {error}"
        raise type(error)(
            message, code=error.code, reason=error.reason, metadata=error.metadata, field=error.field,
            request_id=error.request_id,
        ) from error
    return [*batch[:place], *parts_of(segment, _parts_wanted(error)), *batch[place + 1 :]]


def _parts_wanted(error: InputTooLong) -> int:
    """How many parts keep the limit, with a tenth to spare since parts differ; 2 where the server does not tell."""
    count, limit = error.metadata.get("inputTokenCount", ""), error.metadata.get("maxInputTokens", "")
    if not (count.isdigit() and limit.isdigit() and int(limit)):
        return 2
    return math.ceil(1.1 * int(count) / int(limit))


def assembled(text: str, answers: Sequence[tuple[Segment, Result | None]]) -> Document:
    """The document from all segments of a text, as they were sent in the end, and their answers, in order."""
    pieces: list[str] = []
    passages: list[Passage] = []
    at = done = 0
    for segment, result in answers:
        target = segment.text if result is None else " ".join(result.hypotheses[0].text.split("\n")).strip()
        before = pieces[-1][-1:] if pieces else ""
        space = _space(text[done : segment.start], before, target) if pieces else text[: segment.start]
        begin = at + len(space)
        at = begin + len(target)
        note = "copied" if result is None else "cut" if segment.cut else ""
        passages.append(Passage(segment.start, segment.end, segment.text, begin, at, target, note, result))
        pieces += [space, target]
        done = segment.end
    pieces.append(text[done:])
    return Document("".join(pieces), passages)


def _space(given: str, before: str, target: str) -> str:
    """Space between two sentences: what there was, but one space for none, or none for one, as the target has it."""
    if given not in ("", " "):
        return given
    if not before or not target:
        return given
    return "" if _is_wide(before) and _is_wide(target[0]) else " "


def _is_wide(character: str) -> bool:
    korean = "\uac00" <= character <= "\ud7a3"  # has spaces
    return unicodedata.east_asian_width(character) in "WF" and not korean


def moved(passage: Passage, source: int, target: int) -> Passage:
    """The same passage in a longer text, of which so many characters came before."""
    return replace(
        passage, source_start=passage.source_start + source, source_end=passage.source_end + source,
        target_start=passage.target_start + target, target_end=passage.target_end + target,
    )
