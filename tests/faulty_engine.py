"""Any engine with faults: of single requests, of single runs, of everything. Around the pencil's and the real one.

A request is bad by a token of its source, so that nobody has to know where it lies; the wrapper follows sources to the
places where they are put and moved to.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqserve_server.capacity import Capacity
from seqserve_server.engine import Candidates, Changes, Engine, Pair, Reuse, RowCopy, Scored, Source, StepInput
from seqserve_server.placement import Place

HELD_SECONDS = 120.0


class FaultyEngine:
    """Implements :class:`seqserve_server.engine.Engine` around another.

    Attributes:
        bad_encode, bad_step, bad_score: A run raises where a source in it holds this token. A step is run before it
            raises, so that all of its rows are written, as a step that fails in its last operator leaves them.
        nan: Rows whose source holds this token get NaN for everything, from position ``nan_from`` on.
        inf: As ``nan``, but plus infinity.
        broken: Numbers of runs that raise without being made, counted from 0: encoder batches, steps and parts.
        always: Every run raises.
        deadly: A source that holds this token kills the thread: not even the loop survives what it raises.
        hanging: A step over a source that holds this token does not return, until ``let_go``.
        killing: A step or a pass over a source that holds this token kills the process, as a fault in native code does.
        on_hang: Called when it begins to hang.
        seconds: What every step takes longer.
        runs: How many were asked for.
        raised: How many of them raised.
    """

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.bad_encode: int | None = None
        self.bad_step: int | None = None
        self.bad_score: int | None = None
        self.nan: int | None = None
        self.inf: int | None = None
        self.nan_from = 0
        self.broken: set[int] = set()
        self.always = False
        self.deadly: int | None = None
        self.hanging: int | None = None
        self.killing: int | None = None
        self.on_hang: Callable[[], None] = lambda: None
        self.seconds = 0.0
        self.runs = self.raised = 0
        self.hung = threading.Event()
        self._released = threading.Event()
        self._sources: dict[Place, tuple[int, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def state_bytes(self) -> int:
        """Of the engine inside."""
        return self.inner.state_bytes

    @property
    def reuse(self) -> Reuse:
        """Of the engine inside."""
        return self.inner.reuse

    @property
    def can_score(self) -> bool:
        """Of the engine inside."""
        return self.inner.can_score

    @property
    def choosable_heads(self) -> tuple[int, int]:
        """Of the engine inside."""
        return self.inner.choosable_heads

    def let_go(self) -> None:
        """End a hang."""
        self._released.set()

    def reserve(self, need: Capacity) -> None:
        """No fault here."""
        self.inner.reserve(need)

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """No fault here."""
        self.inner.copy(copies)

    def change(self, changes: Changes) -> None:
        """Follow sources."""
        for released in changes.release_places:
            self._sources.pop(released.place, None)
        for moved in changes.move_places:
            self._sources[moved.destination] = self._sources.pop(moved.source)
        self.inner.change(changes)

    def encode(self, sources: Sequence[Source]) -> None:
        """Encode, or raise with half of the sources encoded."""
        self._begin()
        if any(self.bad_encode in source.token_ids for source in sources):
            self.inner.encode(sources[: len(sources) // 2]) if len(sources) > 1 else None
            self._raise("an encoder at /secret/path breaks on a bad source")
        for source in sources:
            for place in source.places:
                self._sources[place] = tuple(source.token_ids)
        self.inner.encode(sources)

    def step(self, step: StepInput) -> Candidates:
        """One step, with whatever fault was asked for."""
        return self._faulty(self.inner.step, step, range(len(step.tokens)))

    def step_part(self, step: StepInput, rows: Sequence[int]) -> Candidates:
        """As a step."""
        def run(step: StepInput) -> Candidates:
            return self.inner.step_part(step, rows)

        return self._faulty(run, step, rows)

    def _faulty(self, run: Any, step: StepInput, rows: Sequence[int]) -> Candidates:
        self._begin()
        layout = step.layout
        sources = [self._sources[Place(layout.widths[row], layout.places[row])] for row in rows]
        if self._holds(sources, self.hanging):
            self.hung.set()
            self.on_hang()
            if not self._released.wait(HELD_SECONDS):
                raise TimeoutError("a test left an engine hanging")
        if self._holds(sources, self.deadly):
            raise SystemExit("a broken engine at /secret/path")
        if self._holds(sources, self.killing):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seconds:
            time.sleep(self.seconds)
        found: Candidates = run(step)
        if self._holds(sources, self.bad_step):
            self._raise("a decoder at /secret/path breaks on a bad source")
        return self._spoiled(found, sources, [step.positions[row] for row in rows])

    def _spoiled(
        self, found: Candidates, sources: Sequence[tuple[int, ...]], positions: Sequence[int]
    ) -> Candidates:
        for token, value in ((self.nan, np.nan), (self.inf, np.inf)):
            bad = [
                row for row, (source, position) in enumerate(zip(sources, positions, strict=True))
                if token in source and position >= self.nan_from
            ]
            if bad:
                log_probs = found.log_probs.copy()
                log_probs[bad] = value
                found = Candidates(log_probs, found.token_ids, found.logits)
        return found

    def probe(self, example: Pair) -> None:
        """One run, with the faults that every run has."""
        self._begin()
        if any(token in example.source for token in (self.bad_encode, self.bad_step) if token is not None):
            self._raise("the model's example is bad itself")
        self.inner.probe(example)

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """One pass, or raise."""
        self._begin()
        if self._holds([tuple(pair.source) for pair in pairs], self.killing):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(self.bad_score in pair.source for pair in pairs):
            self._raise("a scorer at /secret/path breaks on a bad source")
        return self.inner.score(pairs)

    def _begin(self) -> None:
        self.runs += 1
        if self.always or self.runs - 1 in self.broken:
            self._raise("an engine at /secret/path breaks at this run")

    def _raise(self, message: str) -> None:
        self.raised += 1
        raise RuntimeError(message)

    @staticmethod
    def _holds(sources: Sequence[tuple[int, ...]], token: int | None) -> bool:
        return token is not None and any(token in source for source in sources)
