"""Which requests may have crashed the process, and what follows from that. Pure: values in, values out.

A process that ends uncleanly leaves behind what was in its engine then. Any of it may be the cause, and most of it is
not: it merely ran beside. One such end makes a request a *suspect*. Suspects run one at a time, beside others as
always, so that the next crash can be the fault of one of them at most. Whoever runs to its end is cleared; whoever was
in the engine at a second unclean end is refused from then on.

Requests are known by their digests (:mod:`.fingerprint`), which hold the version of their model.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

REFUSED_AT = 2
MOST_ENDS = 0xFFFF_FFFF  # what a record of the journal can hold


class Record(NamedTuple):
    """Of one digest.

    Attributes:
        ends: Unclean ends at which it was in the engine, since it last ran to its own end.
        last: Number of the last of them. It wraps around, as it is used to tell two ends apart and to guess at age.
    """

    ends: int
    last: int


def after_unclean_end(
    known: Mapping[bytes, Record], in_engine: Iterable[bytes], number: int, most: int
) -> dict[bytes, Record]:
    """What is known after one more unclean end.

    The same end may be told again, by a process that was killed while it wrote it down: each counts once.

    Args:
        in_engine: Digests of what was in the engine; those of several copies count as one.
        number: Of the end.
        most: How many digests are remembered. Those beyond are forgotten, refused ones last, else the oldest first.
    """
    found = dict(known)
    for digest in in_engine:
        before = found.pop(digest, Record(0, number))  # taken out and put back: the newest are at the end
        counted = before.ends > 0 and before.last == number
        found[digest] = before if counted else Record(min(before.ends + 1, MOST_ENDS), number)
    if len(found) > most:
        order = {digest: place for place, digest in enumerate(found)}
        by_worth = sorted(found, key=lambda digest: (
            found[digest].ends >= REFUSED_AT, -((number - found[digest].last) & MOST_ENDS), order[digest]
        ))
        for digest in by_worth[: len(found) - most]:
            del found[digest]
    return found


class Suspects:
    """Of one process: they only become fewer while it runs. Changed by the engine's thread, read by the event loop's.

    Args:
        records: As the journal has them, those of other models and versions too, which nobody will ask for.
    """

    def __init__(self, records: Mapping[bytes, Record]) -> None:
        self._ends = {digest: record.ends for digest, record in records.items()}
        self._taken = False

    @property
    def suspected(self) -> int:
        """How many digests there are that run one at a time."""
        return len(self._ends) - self.refused

    @property
    def refused(self) -> int:
        """How many digests there are that do not run at all."""
        return sum(ends >= REFUSED_AT for ends in list(self._ends.values()))

    def is_refused(self, digest: bytes) -> bool:
        """Whether it must not run."""
        return self._ends.get(digest, 0) >= REFUSED_AT

    def is_suspect(self, digest: bytes) -> bool:
        """Whether it may run only while no other suspect does."""
        return digest in self._ends

    def take_turn(self) -> bool:
        """One suspect wants to run: whether it may. It gives the turn back with ``end_turn``."""
        free, self._taken = not self._taken, True
        return free

    def end_turn(self) -> None:
        """The suspect that runs has ended, in whatever way."""
        self._taken = False

    def clear(self, digest: bytes) -> None:
        """It ran to its own end."""
        self._ends.pop(digest, None)
