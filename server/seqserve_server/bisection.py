"""Who of several is at fault, when something that is done for all of them together fails. Values in, values out."""

from collections.abc import Sequence
from typing import Generic, TypeVar

Suspect = TypeVar("Suspect")


class Bisection(Generic[Suspect]):
    """Which parts to try, one after the other, until each suspect was in a part that went well, or failed alone.

    One guilty suspect among n costs at most 2 * log2(n) tries, and however many there are, 2 * n - 1. A fault that
    does not come again when the same is tried in parts finds nobody guilty; for that reason who is suspected alone is
    tried once more.

    Attributes:
        guilty: Who failed alone so far.
    """

    def __init__(self, suspects: Sequence[Suspect]) -> None:
        """All of them together have failed."""
        self.guilty: list[Suspect] = []
        self._open: list[Sequence[Suspect]] = []
        if len(suspects) == 1:
            self._open.append(suspects)
        else:
            self._halve(suspects)

    def next_part(self) -> Sequence[Suspect] | None:
        """Whom to try together now, in their order; None when all is known."""
        return self._open.pop() if self._open else None

    def failed(self, part: Sequence[Suspect]) -> None:
        """The part last given has failed."""
        if len(part) == 1:
            self.guilty.append(part[0])
        else:
            self._halve(part)

    def _halve(self, part: Sequence[Suspect]) -> None:
        middle = len(part) // 2
        self._open += [half for half in (part[middle:], part[:middle]) if half]


class Breakdown:
    """Whether an engine may be broken itself, rather than asked for something that it cannot do.

    Args:
        most: After so many that fail alone, with nothing that goes well in between, it has to be asked for something
            that it certainly can do. That decides: requests alone, however bad, must not be able to end it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def succeeded(self) -> None:
        """Something that was asked of the engine was done."""
        self._in_a_row = 0

    def failed_alone(self) -> bool:
        """One request alone could not be done. Returns whether the engine is to be tried itself now."""
        self._in_a_row += 1
        return self._in_a_row >= self._most
