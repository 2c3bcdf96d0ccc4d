"""The model of :mod:`pencil` as an engine that distrusts its caller.

The state is kept in rows and places, in arrays from which every number is computed; only what a release, a move or a
copy names is cleared or carried. A row that holds what it should not gets a wrong answer, and whatever no real engine
would survive, or could not see, is noted in ``misuses``.
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pencil import BEST_FIRST, END, LOGITS, START, UNKNOWN, VOCABULARY, answer, attention, scores
from seqserve_server.capacity import Capacity, StateCost, UnitCost, grown
from seqserve_server.engine import (
    Candidates,
    Changes,
    Layout,
    Pair,
    Reuse,
    RowCopy,
    RowMove,
    RowRelease,
    Scored,
    Source,
    StepInput,
)
from seqserve_server.placement import Place

__all__ = ["COST", "END", "START", "UNKNOWN", "VOCABULARY", "WIDTHS", "ArithmeticEngine", "answer"]

WIDTHS = (1, 4, 8)
COST = StateCost(UnitCost(fixed=16, per_target=8), UnitCost(per_source=4))
HOLD_SECONDS = 60.0
TOKEN_IDS = np.array([[token for _, token in row] for row in BEST_FIRST], dtype=np.int64)
LOG_PROBS = np.array([[log_prob for log_prob, _ in row] for row in BEST_FIRST], dtype=np.float32)


class ArithmeticEngine:
    """Implements :class:`seqserve_server.engine.Engine`.

    Attributes:
        misuses: What the caller did wrong.
        encoded: Token ids of every encoder batch.
        steps: Rows of every step, the failing ones too.
        moves: Every move of a row.
        copies: Every copy.
        poison: An encoder batch that holds this id raises.
        nan: A row whose source holds this id gets NaN from its third token on.
        nan_fed: A row that was fed this token gets NaN.
        broken_steps: Numbers of the steps that raise, counted from 0; parts of steps count too.
        can_score, reuse: What it says of itself.
        passes: Every pass over pairs, the failing ones too. One with ``poison`` in a source raises, and a pair with
            ``nan`` in its source gets NaN.
        out_of_memory: Makes ``reserve`` raise, outside of everything that the loop survives.
        watch: Called in every step, when rows hold what they were fed.
    """

    def __init__(
        self, budget: int = 1 << 20, rows: int = 128, longest: int = 128, widths: Sequence[int] = WIDTHS
    ) -> None:
        self.capacity = Capacity.none(widths)
        self.misuses: list[str] = []
        self.encoded: list[list[list[int]]] = []
        self.steps: list[int] = []
        self.moves: list[RowMove] = []
        self.copies: list[RowCopy] = []
        self.poison: int | None = None
        self.nan: int | None = None
        self.nan_fed: int | None = None
        self.broken_steps: set[int] = set()
        self.can_score = True
        self.reuse = Reuse()
        self.passes: list[list[Pair]] = []
        self.out_of_memory = False
        self.stepping = threading.Event()
        self.watch: Callable[[StepInput], None] = lambda step: None
        self._budget = budget
        self._permits: threading.Semaphore | None = None
        self._widths = widths
        # Ids plus one, so that none is zero; and for whom they are, 0 for nobody.
        self._fed = np.zeros((rows, longest), dtype=np.int64)
        self._sources = [np.zeros((rows, longest), dtype=np.int64) for _ in widths]
        self._row_owner = np.zeros(rows, dtype=np.int64)
        self._place_owner = [np.zeros(rows, dtype=np.int64) for _ in widths]
        self._owners = 0

    @property
    def state_bytes(self) -> int:
        """Bytes that buffers of this capacity would take."""
        return COST.bytes_of(self.capacity)

    @property
    def occupied(self) -> list[int | Place]:
        """Rows and places that are not all zeros."""
        places = [
            Place(width, index) for width, source in enumerate(self._sources)
            for index in np.flatnonzero(source.any(axis=1) | (self._place_owner[width] > 0)).tolist()
        ]
        return [*np.flatnonzero(self._fed.any(axis=1) | (self._row_owner > 0)).tolist(), *places]

    def fed(self, row: int) -> list[int]:
        """The tokens that a row was fed so far."""
        written = self._fed[row]
        return [int(token) for token in written[written > 0] - 1]

    def hold(self) -> None:
        """Make every step wait for ``allow``; ``stepping`` is set once one does."""
        self._permits = threading.Semaphore(0)
        self.stepping.clear()

    def allow(self, steps: int | None = None) -> None:
        """Let that many held steps go on, or all."""
        permits = self._permits
        if steps is None:
            self._permits = None
        if permits is not None:
            permits.release(steps or 1)

    def reserve(self, need: Capacity) -> None:
        """Grow as the real buffers would."""
        if self.out_of_memory:
            raise MemoryError("as told")
        if not self.capacity.holds(need):
            self.capacity = grown(self.capacity, need, COST, self._budget)
        self._expect(self.state_bytes <= self._budget, f"{self.capacity} is over the budget of {self._budget} bytes")

    def change(self, changes: Changes) -> None:
        """Clear and carry what is named, and no more."""
        for released in changes.release_rows:
            self._clear_row(released)
        for freed in changes.release_places:
            self._clear_place(freed.place, freed.length)
        for row in changes.move_rows:
            self._expect(not self._fed[row.destination].any() and not self._row_owner[row.destination],
                         f"{row} into a row that is not empty")
            self._fed[row.destination, : row.length] = self._fed[row.source, : row.length]
            self._row_owner[row.destination] = self._row_owner[row.source]
            self._clear_row(RowRelease(row.source, row.length))
        self.moves += changes.move_rows
        for place in changes.move_places:
            source, destination = place.source, place.destination
            self._expect(source.width == destination.width, f"{place} between widths")
            array, owner = self._sources[source.width], self._place_owner[source.width]
            self._expect(not array[destination.index].any(), f"{place} into a place that is not empty")
            array[destination.index, : place.length] = array[source.index, : place.length]
            owner[destination.index] = owner[source.index]
            self._clear_place(source, place.length)

    def _clear_row(self, released: RowRelease) -> None:
        self._fed[released.row, : released.length] = 0
        self._row_owner[released.row] = 0
        self._expect(not self._fed[released.row].any(), f"row {released.row} is not empty after {released}")

    def _clear_place(self, place: Place, length: int) -> None:
        array = self._sources[place.width]
        array[place.index, :length] = 0
        self._place_owner[place.width][place.index] = 0
        self._expect(not array[place.index].any(), f"{place} is not empty after {length} tokens of it were cleared")

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Carry the positions that are named, and no others; complain of those that are the same already."""
        destinations = [entry.destination for entry in copies]
        self._expect(len(set(destinations)) == len(destinations), f"two copies into one row: {copies}")
        self._expect(not set(destinations) & {entry.source for entry in copies}, f"a source is overwritten: {copies}")
        for entry in copies:
            source, destination = self._fed[entry.source], self._fed[entry.destination]
            owner, theirs = self._row_owner[[entry.source, entry.destination]].tolist()
            self._expect(owner > 0 and theirs in (0, owner), f"{entry} between requests")
            same = np.cumprod(source == destination)[: entry.end].sum()
            self._expect(entry.start == same, f"{entry}, but {same} positions are the same already")
            self._expect(np.count_nonzero(source) == entry.end, f"{entry} of {np.count_nonzero(source)} positions")
            self._expect(entry.end <= self.capacity.target, f"{entry} does not fit {self.capacity}")
            self._expect(max(entry.source, entry.destination) < self.capacity.rows, f"{entry} outside {self.capacity}")
            destination[entry.start : entry.end] = source[entry.start : entry.end]
            self._row_owner[entry.destination] = owner
        self.copies += copies

    def encode(self, sources: Sequence[Source]) -> None:
        """Put the ids into the places, and note whose the row is."""
        self.encoded.append([list(source.token_ids) for source in sources])
        if any(self.poison in source.token_ids for source in sources):
            raise RuntimeError("an encoder at /secret/path breaks on a poisoned id")
        for source in sources:
            length = len(source.token_ids)
            fits = source.row < self.capacity.rows and length <= self.capacity.source and all(
                place.index < self.capacity.places[place.width] for place in source.places
            )
            self._expect(fits, f"{source} does not fit {self.capacity}")
            self._expect(not self._fed[source.row].any() and not self._row_owner[source.row],
                         f"row {source.row} was not cleared before its next owner")
            self._owners += 1
            self._row_owner[source.row] = self._owners
            for place in source.places:
                self._expect(not self._sources[place.width][place.index].any(),
                             f"{place} was not cleared before its next owner")
                self._sources[place.width][place.index, :length] = np.asarray(source.token_ids) + 1
                self._place_owner[place.width][place.index] = self._owners

    def step(self, step: StepInput) -> Candidates:
        """One token for rows 0 .. n-1."""
        rows = len(step.tokens)
        self._begin(rows)
        fits = rows <= self.capacity.rows and max(step.positions) < self.capacity.target
        self._expect(fits, f"{step} does not fit {self.capacity}")
        self._feed(step, np.arange(rows))
        self._expect(not self._fed[rows:].any() and not self._row_owner[rows:].any(), f"dirty rows after {rows} rows")
        self._check_layout(rows, step.layout)
        self.watch(step)
        return self._found(step, np.arange(rows))

    def step_part(self, step: StepInput, rows: Sequence[int]) -> Candidates:
        """One token for some rows of a step that was broken."""
        self._begin(len(rows))
        self._expect(list(rows) == sorted(set(rows)), f"{rows} are not ascending")
        self._feed(step, np.asarray(rows))
        return self._found(step, np.asarray(rows))

    def probe(self, example: Pair) -> None:
        """Nothing here is too much for this model, unless the example is poison itself."""
        if self.poison in example.source:
            raise RuntimeError("an encoder at /secret/path breaks on the model's example")

    def _begin(self, rows: int) -> None:
        self._wait()
        self.steps.append(rows)
        if len(self.steps) - 1 in self.broken_steps:
            raise RuntimeError("a decoder at /secret/path breaks at this step")

    def _feed(self, step: StepInput, rows: NDArray[np.intp]) -> None:
        positions = np.asarray(step.positions)[rows]
        self._fed[rows, positions] = np.asarray(step.tokens)[rows] + 1
        written = np.count_nonzero(self._fed[rows], axis=1)
        self._expect(bool((written == positions + 1).all()), f"rows hold {written} tokens after positions {positions}")

    def _found(self, step: StepInput, rows: NDArray[np.intp]) -> Candidates:
        layout, positions = step.layout, np.asarray(step.positions)[rows]
        sources = np.stack([self._sources[layout.widths[row]][layout.places[row]] for row in rows.tolist()])
        totals = sources.sum(axis=1) - np.count_nonzero(sources, axis=1) + self._fed[rows].sum(axis=1) - positions - 1
        best, count = totals % VOCABULARY, min(step.candidates, VOCABULARY)
        token_ids, log_probs, logits = TOKEN_IDS[best, :count], LOG_PROBS[best, :count], LOGITS[best]
        if self.nan is not None:
            bad = (sources == self.nan + 1).any(axis=1) & (positions >= 2)
            log_probs[bad] = logits[bad] = np.nan
        if self.nan_fed is not None:
            bad = (self._fed[rows] == self.nan_fed + 1).any(axis=1)
            log_probs[bad] = logits[bad] = np.nan
        return Candidates(log_probs, token_ids, logits if step.logits else None)

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """What the pencil says of every token behind the prompts."""
        self.passes.append(list(pairs))
        self._expect(self.can_score and bool(pairs), f"a pass over {len(pairs)} pairs")
        if any(self.poison in pair.source for pair in pairs):
            raise RuntimeError("a scorer at /secret/path breaks on a poisoned id")
        found = []
        for pair in pairs:
            prompt, tokens = pair.target[: pair.prompt], pair.target[pair.prompt :]
            self._expect(bool(pair.prompt and tokens), f"nothing to score in {pair}")
            log_probs = np.array(scores(pair.source, prompt, tokens), dtype=np.float32)
            if self.nan in pair.source:
                log_probs[-1] = np.nan
            found.append(Scored(log_probs, np.array(attention(len(pair.source), len(tokens)), dtype=np.float32)))
        return found

    def _check_layout(self, rows: int, layout: Layout) -> None:
        whole = len(layout.widths) == len(layout.places) == len(layout.offsets) == rows
        self._expect(whole, f"{layout} of {rows} rows")
        seats = list(zip(layout.widths, layout.places, layout.offsets, strict=True))
        self._expect(len(set(seats)) == len(seats), f"two rows at one offset: {layout}")
        for row, (width, index, offset) in enumerate(seats):
            inside = 0 <= index < layout.counts[width] and 0 <= offset < self._widths[width]
            self._expect(inside, f"row {row} has no place in {layout}")
            self._expect(0 < self._row_owner[row] == self._place_owner[width][index],
                         f"row {row} reads the place of somebody else")
        for width, count in enumerate(layout.counts):
            self._expect(count <= self.capacity.places[width], f"{layout} does not fit {self.capacity}")
            lengths = np.count_nonzero(self._sources[width], axis=1)
            self._expect(bool(lengths[:count].all()), f"a place of width {width} is in use, but nothing is in it")
            self._expect(not lengths[count:].any(), f"dirty places after {count} of width {width}")

    def _wait(self) -> None:
        permits = self._permits
        if permits is not None and not permits.acquire(blocking=False):
            self.stepping.set()
            if not permits.acquire(timeout=HOLD_SECONDS):
                raise TimeoutError("a test held a step and forgot it")

    def _expect(self, holds: bool, misuse: str) -> None:
        if not holds:
            self.misuses.append(misuse)
