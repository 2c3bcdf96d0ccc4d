"""An engine whose every answer can be checked with a pencil.

    next token = (last token + sum of the source) mod 29

A source of 5 and 6, closed by its end token 1, sums to 12. From the decoder start 2 the tokens are

    14, 26, 9, 21, 4, 16, 28, 11, 23, 6, 18, 1 -- and 1 is the end token.

Where the end may not come yet the token after it is taken: the second candidate is always the best plus one. Token t
costs a log-probability of -(t + 1) / 128, a number that float32 holds exactly, and 4 more as second candidate. As 29 is
a prime, every source ends within 29 tokens, but for those whose sum it divides: they repeat the start for ever.

The state is kept in slots, in arrays from which every number is computed, and only what a release or move names is
cleared or carried. A row that lands in the wrong slot, or in one that was not cleared, gets a wrong answer, and the
engine notes it in ``misuses``.
"""

import threading
from collections.abc import Sequence

import numpy as np

from seqserve_server.capacity import Capacity, StateCost, grown
from seqserve_server.engine import Candidates, Move, Release, Source, StepInput
from seqserve_server.request import FinishReason

VOCABULARY = 29
UNKNOWN, END, START = 0, 1, 2
COST = StateCost(fixed=16, per_target=8, per_source=4)
HOLD_SECONDS = 60.0


def log_prob(token: int) -> float:
    """What a best candidate costs."""
    return -(token + 1) / 128


def answer(
    source: Sequence[int], max_new_tokens: int, min_new_tokens: int = 0, *, prompt: Sequence[int] = (START,),
    forced_end: bool = False,
) -> tuple[list[int], list[float], FinishReason]:
    """The answer as a pencil finds it: token ids without the end, log-probabilities with it, and why it ends."""
    tokens: list[int] = []
    log_probs: list[float] = []
    last = prompt[-1]
    while len(log_probs) < max_new_tokens:
        if forced_end and len(log_probs) == max_new_tokens - 1:
            return tokens, [*log_probs, 0.0], FinishReason.LENGTH
        last = (last + sum(source)) % VOCABULARY
        if last == END and len(log_probs) < min_new_tokens:
            last += 1
            log_probs.append(log_prob(last) - 4)
        else:
            log_probs.append(log_prob(last))
        if last == END:
            return tokens, log_probs, FinishReason.EOS
        tokens.append(last)
    return tokens, log_probs, FinishReason.LENGTH


class ArithmeticEngine:
    """Implements :class:`seqserve_server.engine.Engine`.

    Attributes:
        misuses: What the caller did that no engine would survive.
        encoded: Token ids of every encoder batch.
        steps: Rows of every step, the failing ones too.
        moves: Every move.
        poison: An encoder batch that holds this id raises.
        nan: A row whose source holds this id gets NaN from its third token on.
        broken_steps: Numbers of the steps that raise, counted from 0.
        out_of_memory: Makes ``reserve`` raise, outside of everything that the loop survives.
    """

    def __init__(self, budget: int = 1 << 20, slots: int = 128, longest: int = 128) -> None:
        self.capacity = Capacity(0, 0, 0)
        self.misuses: list[str] = []
        self.encoded: list[list[list[int]]] = []
        self.steps: list[int] = []
        self.moves: list[Move] = []
        self.poison: int | None = None
        self.nan: int | None = None
        self.broken_steps: set[int] = set()
        self.out_of_memory = False
        self.stepping = threading.Event()
        self._budget = budget
        self._permits: threading.Semaphore | None = None
        self._source = np.zeros((slots, longest), dtype=np.int64)
        self._target = np.zeros((slots, longest), dtype=np.int64)

    @property
    def state_bytes(self) -> int:
        """Bytes that buffers of this capacity would take."""
        return COST.bytes_of(self.capacity)

    @property
    def occupied(self) -> list[int]:
        """Slots that are not all zeros."""
        return np.flatnonzero(self._source.any(axis=1) | self._target.any(axis=1)).tolist()

    def fed(self, slot: int) -> list[int]:
        """The tokens that a slot's row was fed so far."""
        written = self._target[slot]
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

    def release(self, releases: Sequence[Release]) -> None:
        """Clear what is named, and no more."""
        for entry in releases:
            self._source[entry.slot, : entry.source_length] = 0
            self._target[entry.slot, : entry.target_length] = 0

    def move(self, moves: Sequence[Move]) -> None:
        """Carry what is named, and no more."""
        for entry in moves:
            self._expect(entry.destination not in self.occupied, f"{entry} into a slot that is not empty")
            self._source[entry.destination, : entry.source_length] = self._source[entry.source, : entry.source_length]
            self._target[entry.destination, : entry.target_length] = self._target[entry.source, : entry.target_length]
            self.release([Release(entry.source, entry.target_length, entry.source_length)])
        self.moves += moves

    def encode(self, sources: Sequence[Source]) -> None:
        """Put ids, plus one so that none is zero, into the slots."""
        self.encoded.append([list(source.token_ids) for source in sources])
        if any(self.poison in source.token_ids for source in sources):
            raise RuntimeError("an encoder at /secret/path breaks on a poisoned id")
        for source in sources:
            length = len(source.token_ids)
            fits = source.slot < self.capacity.rows and length <= self.capacity.source
            self._expect(fits, f"{source} does not fit {self.capacity}")
            self._expect(not self._source[source.slot].any() and not self._target[source.slot].any(),
                         f"slot {source.slot} was not cleared before its next owner")
            self._source[source.slot, :length] = np.asarray(source.token_ids) + 1

    def step(self, step: StepInput) -> Candidates:
        """One token for slots 0 .. n-1."""
        rows = len(step.tokens)
        self._wait()
        self.steps.append(rows)
        if len(self.steps) - 1 in self.broken_steps:
            raise RuntimeError("a decoder at /secret/path breaks at this step")
        positions = np.asarray(step.positions)
        fits = rows <= self.capacity.rows and int(positions.max()) < self.capacity.target
        self._expect(fits, f"{step} does not fit {self.capacity}")
        self._target[np.arange(rows), positions] = np.asarray(step.tokens) + 1
        written = np.count_nonzero(self._target[:rows], axis=1)
        self._expect(bool((written == positions + 1).all()), f"rows hold {written} tokens after positions {positions}")
        lengths = np.count_nonzero(self._source[:rows], axis=1)
        self._expect(bool(lengths.all()), f"slots {np.flatnonzero(lengths == 0)} run, but nothing was encoded there")
        self._expect(not self._source[rows:].any() and not self._target[rows:].any(), f"dirty slots after {rows} rows")
        sums = self._source[:rows].sum(axis=1) - lengths
        best = (np.asarray(step.tokens) + sums) % VOCABULARY
        token_ids = np.stack([best, (best + 1) % VOCABULARY], axis=1)
        log_probs = (-(token_ids + 1) / 128 - [0, 4]).astype(np.float32)
        if self.nan is not None:
            bad = (self._source[:rows] == self.nan + 1).any(axis=1) & (positions >= 2)
            log_probs[bad] = np.nan
        return Candidates(log_probs, token_ids)

    def _wait(self) -> None:
        permits = self._permits
        if permits is not None and not permits.acquire(blocking=False):
            self.stepping.set()
            if not permits.acquire(timeout=HOLD_SECONDS):
                raise TimeoutError("a test held a step and forgot it")

    def _expect(self, holds: bool, misuse: str) -> None:
        if not holds:
            self.misuses.append(misuse)
