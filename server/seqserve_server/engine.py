"""What the loop needs of an engine. Nothing here knows a runtime, a device or a kind of model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve_server.capacity import Capacity

SOURCE_MULTIPLE = 16  # inside an encoder batch, attention sees sources padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Source:
    """A source to encode into a slot."""

    slot: int
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Release:
    """A slot to empty, with how much of it was written."""

    slot: int
    target_length: int
    source_length: int


@dataclass(frozen=True, slots=True)
class Move:
    """A row to carry from one slot to an empty one, with how much of it is written."""

    source: int
    destination: int
    target_length: int
    source_length: int


@dataclass(frozen=True, slots=True)
class StepInput:
    """One decoder step over slots 0 .. n-1.

    Attributes:
        tokens: Last token of every row.
        positions: How many tokens each row's state already holds.
        candidates: How many best tokens to return per row.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    candidates: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Best next tokens of every row, best first, ties to the lower id.

    Attributes:
        log_probs: float32 [rows, candidates]. Valid until the next step.
        token_ids: int64 [rows, candidates]. Valid until the next step.
    """

    log_probs: NDArray[np.float32]
    token_ids: NDArray[np.int64]


class Engine(Protocol):
    """Holds the state of rows in slots and advances all of them by one token at a time. Used by one thread only."""

    @property
    def state_bytes(self) -> int:
        """Bytes allocated for the state of rows."""

    def reserve(self, need: Capacity) -> None:
        """Make the buffers hold ``need``; contents and results do not change."""

    def release(self, releases: Sequence[Release]) -> None:
        """Zero slots, so that nothing of a row (a NaN, say) reaches the next owner."""

    def move(self, moves: Sequence[Move]) -> None:
        """Carry rows to empty slots and zero the slots they leave."""

    def encode(self, sources: Sequence[Source]) -> None:
        """Run the encoder once over several sources and put what decoding needs into their slots."""

    def step(self, step: StepInput) -> Candidates:
        """Advance rows 0 .. n-1 by one token."""
