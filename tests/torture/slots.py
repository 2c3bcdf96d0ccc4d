"""Row 17: slots whose owner's values were not finite, and who gets them next."""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arithmetic_engine import END, ArithmeticEngine
from hand_loop import HandLoop, make_limits
from seqserve_server.engine import Candidates, Changes, RowCopy, RowRelease, Source, StepInput
from seqserve_server.request import Failed
from torture.progress import Progress

NAN, ROWS = 26, 8


class NanStays(ArithmeticEngine):
    """A row that was NaN once is so in each later step, whoever it belongs to, until it is cleared; as 0 x NaN is NaN.

    Attributes:
        reused: How many such rows were cleared and then given to somebody else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nan = NAN
        self.reused = 0
        self._spoiled: set[int] = set()
        self._freed: set[int] = set()

    def _clear_row(self, released: RowRelease) -> None:
        super()._clear_row(released)
        if released.row in self._spoiled:
            self._spoiled.remove(released.row)
            self._freed.add(released.row)

    def _taken(self, row: int, carried: bool = False) -> None:
        self.reused += row in self._freed
        self._freed.discard(row)
        if carried:
            self._spoiled.add(row)

    def change(self, changes: Changes) -> None:
        """Moves carry what is in a row, NaN too."""
        carried = [(move.destination, move.source in self._spoiled) for move in changes.move_rows]
        super().change(changes)
        for row, spoiled in carried:
            self._taken(row, spoiled)

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """So do copies."""
        super().copy(copies)
        for entry in copies:
            self._taken(entry.destination, entry.source in self._spoiled)

    def encode(self, sources: Sequence[Source]) -> None:
        """The next owner."""
        super().encode(sources)
        for source in sources:
            self._taken(source.row)

    def _found(self, step: StepInput, rows: NDArray[np.intp]) -> Candidates:
        found = super()._found(step, rows)
        for place, row in enumerate(rows.tolist()):
            if row in self._spoiled:
                found.log_probs[place] = np.nan
            elif np.isnan(found.log_probs[place, 0]):
                self._spoiled.add(row)
        return found


class Unzeroed(NanStays):
    """The planted bug: a slot is called empty, and NaN stays in it."""

    def _clear_row(self, released: RowRelease) -> None:
        ArithmeticEngine._clear_row(self, released)
        if released.row in self._spoiled:
            self._freed.add(released.row)


async def reused_slots(count: int, engine: type[NanStays] = NanStays) -> str:
    """So many slots given on after NaN; every other answer and stream is the pencil's, which the hand loop compares."""
    rng, bad, progress = random.Random(17), set(), Progress("reused_slots", count)
    slots = engine()
    hand = HandLoop(make_limits(max_rows=ROWS), slots)
    while slots.reused < count:
        before = slots.reused
        for _ in range(rng.randint(1, 4)):
            guilty = rng.random() < 0.5
            source = [NAN, END] if guilty else [rng.randrange(3, 26), rng.randrange(3, 26), END]
            length = 6 if guilty else rng.randint(1, 8)
            number = hand.submit(source, length, beams=rng.choice((1, 1, 2, 4)), stream=rng.random() < 0.5)
            if guilty:
                bad.add(number)
        while len(hand.open) > 2 * ROWS:
            hand.step()
        hand.step()
        progress.add(slots.reused - before)
    hand.run()
    failed = {number for number, event in hand.ended.items() if isinstance(event, Failed)}
    assert failed == bad, f"{len(failed - bad)} failed that were well, {len(bad - failed)} were answered that were not"
    return f"{slots.reused} reused, {len(bad)} failed, {len(hand.ended) - len(bad)} answers right, 0 NaN sent"
