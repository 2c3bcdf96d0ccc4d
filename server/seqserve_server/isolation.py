"""Runs of the engine, and what is made of them when they raise: whose fault it was, and everybody else's result."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqserve_server.bisection import Bisection, Breakdown, Suspect
from seqserve_server.engine import Candidates, Engine, Pair, Scored, Source, StepInput

logger = logging.getLogger(__name__)
MOST_ALONE = 8  # requests in a row that fail alone; one that passed the door should not be able to do it at all


class EngineBroken(RuntimeError):
    """Whatever is asked of the engine fails."""


class Isolation:
    """Asks the engine for what may fail because of one request, and finds that request.

    What raises is run again over ever smaller parts, all rows of a request together. A run that failed has left nothing
    that counts: in rows it may have written the one position that it was at, which a step writes before it reads it; in
    places it may have written a source, which is written again as a whole. And nobody's answer changes, because a row
    has the same bits in any batch.

    Attributes:
        runs: How many runs have ended in whatever way; who watches for progress reads it from another thread.
        failures: How many of them raised.
    """

    def __init__(self, engine: Engine, most_alone: int = MOST_ALONE, example: Pair | None = None) -> None:
        """After ``most_alone`` requests that fail alone, with nothing that succeeds in between, the engine is tried
        with an example of the model's own; without one it is taken for broken."""
        self.runs = self.failures = 0
        self._engine, self._example = engine, example
        self._breakdown = Breakdown(most_alone)

    def encode(self, sources: Sequence[Source], ids: Callable[[Sequence[Source]], Sequence[int]]) -> list[Source]:
        """Encode all but those that cannot be, which are returned. ``ids`` names requests, for the log.

        Raises:
            EngineBroken: nothing can be done any more.
        """
        try:
            self._engine.encode(sources)
        except Exception as error:  # noqa: BLE001 - whatever it was, only who caused it shall hear of it
            self._failed("an encoder batch", ids(sources), error)
        else:
            self._succeeded()
            return []
        bisection = Bisection(sources)
        while (part := bisection.next_part()) is not None:
            try:
                self._engine.encode(part)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed("a part of an encoder batch", ids(part), error)
                self._split(bisection, part)
            else:
                self._succeeded()
        return bisection.guilty

    def step(
        self, step: StepInput, rows_of: Callable[[], Mapping[int, Sequence[int]]]
    ) -> tuple[Candidates, list[int]]:
        """One decoder step.

        Args:
            rows_of: Tells the rows of each request; asked only when it has to be.

        Returns:
            What was found, with zeros in rows of requests that are at fault; and the ids of those.

        Raises:
            EngineBroken: nothing can be done any more.
        """
        try:
            found = self._engine.step(step)
        except Exception as error:  # noqa: BLE001 - as above
            by_request = rows_of()
            self._failed("a decoder step", list(by_request), error)
        else:
            self._succeeded()
            return found, []
        whole: Candidates | None = None
        bisection = Bisection(list(by_request))
        while (part := bisection.next_part()) is not None:
            rows = sorted(row for number in part for row in by_request[number])
            try:
                found = self._engine.step_part(step, rows)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed("a part of a decoder step", part, error)
                self._split(bisection, part)
            else:
                self._succeeded()
                whole = _merged(whole, found, rows, len(step.tokens))
        return whole or _nothing(len(step.tokens)), bisection.guilty

    def score(self, pairs: Sequence[Pair], ids: Sequence[int]) -> list[Scored] | None:
        """One pass over pairs; None if it raises. Its pairs then have turns of their own, so that running rows do not
        wait for them all.

        Raises:
            EngineBroken: nothing can be done any more.
        """
        try:
            found = self._engine.score(pairs)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed("a pass over pairs", ids, error)
            if len(pairs) == 1:
                self._judge()
            return None
        self._succeeded()
        return found

    def _succeeded(self) -> None:
        self.runs += 1
        self._breakdown.succeeded()

    def _failed(self, what: str, ids: Sequence[int], error: Exception) -> None:
        self.runs += 1
        self.failures += 1
        logger.error("%s failed; requests %s", what, ", ".join(map(str, ids)) or "none", exc_info=error)

    def _split(self, bisection: Bisection[Suspect], part: Sequence[Suspect]) -> None:
        bisection.failed(part)
        if len(part) == 1:
            self._judge()

    def _judge(self) -> None:
        if self._breakdown.failed_alone() and not self._sound():
            raise EngineBroken("one request after the other fails alone, and nothing succeeds in between")

    def _sound(self) -> bool:
        """Whether the engine can still do what it is known to have done once: then the requests were at fault."""
        if self._example is None:
            return False
        try:
            self._engine.probe(self._example)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed("the model's own example", (), error)
            return False
        self._succeeded()
        logger.warning("one request after the other failed alone, but the engine passes its probe: it goes on")
        return True


def _merged(whole: Candidates | None, part: Candidates, rows: Sequence[int], count: int) -> Candidates:
    """Rows of a part put where they belong; they are copied, because a part is valid until the next run only."""
    if whole is None:
        def zeros(like: Any) -> Any:
            return np.zeros((count, like.shape[1]), dtype=like.dtype)

        logits = None if part.logits is None else zeros(part.logits)
        whole = Candidates(zeros(part.log_probs), zeros(part.token_ids), logits)
    index = list(rows)
    whole.log_probs[index] = part.log_probs
    whole.token_ids[index] = part.token_ids
    if whole.logits is not None and part.logits is not None:
        whole.logits[index] = part.logits
    return whole


def _nothing(rows: int) -> Candidates:
    return Candidates(np.zeros((rows, 1), np.float32), np.zeros((rows, 1), np.int64))
