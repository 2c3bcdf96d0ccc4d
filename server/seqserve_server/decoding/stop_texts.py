"""Texts at which an answer ends, found in a text as it grows.

Which text is the first is settled by where it ends, not by where it begins, so that it does not depend on how many
characters a token brings: with "b" and "abc", "ab" ends at "b". Of those that end at the same character the longest
counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from seqserve_server.decoding.matching import failures, matched


class GrowingText(Protocol):
    """The text of a sequence that grows; it is never taken back."""

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; what is certain of the text by them."""

    def rest(self) -> str:
        """What is left of it at the end."""


@dataclass(frozen=True, slots=True)
class StopTexts:
    """Some texts, none empty, and how ids become text.

    Attributes:
        failures: The table of each text (:func:`.matching.failures`).
        begin: Makes a text that has no ids yet. The tokenizer's; nothing here knows one.
        prefix: Ids that the answer begins with. A stop text may begin in their text; what ends there does not count.
    """

    texts: tuple[str, ...]
    failures: tuple[tuple[int, ...], ...]
    begin: Callable[[], GrowingText] = field(compare=False)
    prefix: tuple[int, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str], begin: Callable[[], GrowingText]) -> Self:
        """With the table of each text."""
        return cls(tuple(texts), tuple(map(failures, texts)), begin)

    def answer(self, ids: Sequence[int]) -> str:
        """The text of a whole answer, up to where it stops."""
        growing = StoppingText(self)
        return growing.push(ids) + growing.finish()


class StoppingText:
    """The text of a growing answer up to where it stops. What may become a stop text is held back until it is not.

    Each character is looked at once for each text, so the time is linear in the answer.
    """

    __slots__ = ("_growing", "_held", "_lengths", "_stop", "stopped")

    def __init__(self, stop: StopTexts) -> None:
        self._stop, self._growing = stop, stop.begin()
        self._lengths = [0] * len(stop.texts)  # of each text, how much of its beginning is at the end of what is there
        self.stopped = False
        self._held = self._growing.push(stop.prefix) if stop.prefix else ""
        for character in self._held:
            self._look(character)

    def push(self, ids: Sequence[int]) -> str:
        """Add ids behind the prefix; what can be told of the text by them, the prefix's included."""
        return self._take(self._growing.push(ids))

    def finish(self) -> str:
        """The rest, when there are no more ids."""
        told = self._take(self._growing.rest())
        if self.stopped:
            return told
        told, self._held = told + self._held, ""
        return told

    def _take(self, new: str) -> str:
        if self.stopped:
            return ""
        whole = self._held + new
        for place, character in enumerate(new, len(self._held) + 1):
            if found := self._look(character):
                self.stopped, self._held = True, ""
                return whole[: place - found]
        certain = len(whole) - max(self._lengths)
        self._held = whole[certain:]
        return whole[:certain]

    def _look(self, character: str) -> int:
        """Go on by one character; the length of the longest stop text that ends with it, or 0."""
        longest = 0
        for number, (text, table) in enumerate(zip(self._stop.texts, self._stop.failures, strict=True)):
            length = matched(text, table, self._lengths[number], character)
            if length == len(text):
                longest, length = max(longest, length), table[-1]
            self._lengths[number] = length
        return longest
