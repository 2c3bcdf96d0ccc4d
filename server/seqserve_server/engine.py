"""What the loop needs of an engine. Nothing here knows a runtime, a device or a kind of model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve_server.capacity import Capacity
from seqserve_server.placement import Place

SOURCE_MULTIPLE = 16  # inside an encoder batch, attention sees sources padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Source:
    """A source to encode once, into the first row of its request, and into every place that it has."""

    row: int
    places: tuple[Place, ...]
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class RowRelease:
    """A row to empty, with how many positions of it were written."""

    row: int
    length: int


@dataclass(frozen=True, slots=True)
class PlaceRelease:
    """A place to empty, with the length of the source in it."""

    place: Place
    length: int


@dataclass(frozen=True, slots=True)
class RowCopy:
    """Positions ``start`` .. ``end - 1`` of a row to put into another; those before are the same in both already.

    Of states without positions everything is copied. No row is the source of one copy and the destination of another.
    """

    source: int
    destination: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RowMove:
    """A row to carry to an empty one, with how many positions of it are written."""

    source: int
    destination: int
    length: int


@dataclass(frozen=True, slots=True)
class PlaceMove:
    """A source to carry to an empty place of the same width, with its length."""

    source: Place
    destination: Place
    length: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Who leaves and who moves together; in this order."""

    release_rows: Sequence[RowRelease] = ()
    release_places: Sequence[PlaceRelease] = ()
    move_rows: Sequence[RowMove] = ()
    move_places: Sequence[PlaceMove] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the rows 0 .. n-1 find their sources. The same object comes again for as long as nothing changes.

    Attributes:
        widths: Index of the width of each row's place.
        places: Index of the place among those of its width.
        offsets: Which of the place's rows it is: 0 .. width - 1, no two the same.
        counts: Places in use, of each width.
    """

    widths: Sequence[int]
    places: Sequence[int]
    offsets: Sequence[int]
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class StepInput:
    """One decoder step over rows 0 .. n-1.

    Attributes:
        tokens: Last token of every row.
        positions: How many tokens each row's state already holds.
        candidates: How many best tokens to return per row; no more than the vocabulary has come.
        logits: Whether all logits are wanted besides.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    candidates: int
    layout: Layout
    logits: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """Best next tokens of every row, best first, ties to the lower id.

    Attributes:
        log_probs: float32 [rows, candidates]. Valid until the next step.
        token_ids: int64 [rows, candidates]. Valid until the next step.
        logits: float32 [rows, vocabulary], where they were wanted. Valid until the next step.
    """

    log_probs: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and a target to score behind it.

    Attributes:
        source: Complete source ids.
        target: The prompt, then the tokens to score, an end token included.
        prompt: How many of them are the prompt; at least 1.
    """

    source: Sequence[int]
    target: Sequence[int]
    prompt: int


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the model thinks of a target.

    Attributes:
        log_probs: [scored] of each token behind the prompt.
        alignment: [scored, source], the attention when that token was chosen; rows add up to 1.
    """

    log_probs: NDArray[np.float32]
    alignment: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Sources that were kept from before, and that were not; and the bytes of those kept now."""

    hits: int = 0
    misses: int = 0
    bytes_used: int = 0


class Engine(Protocol):
    """Holds the state of rows and places, and advances all rows by one token at a time. Used by one thread only."""

    @property
    def state_bytes(self) -> int:
        """Bytes allocated for the state of rows and places."""

    @property
    def reuse(self) -> Reuse:
        """How often the encoder was spared, until now."""

    @property
    def can_score(self) -> bool:
        """Whether the model came with a scorer."""

    def change(self, changes: Changes) -> None:
        """Zero what is released, so that nothing of it (a NaN, say) reaches the next owner, and what is moved away."""

    def reserve(self, need: Capacity) -> None:
        """Make the buffers hold ``need``; what lies inside and results do not change."""

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Let hypotheses go on from what others have written."""

    def encode(self, sources: Sequence[Source]) -> None:
        """Run the encoder once over several sources and put what decoding needs into their places."""

    def step(self, step: StepInput) -> Candidates:
        """Advance rows 0 .. n-1 by one token. One that raises has written nothing but the positions it was at."""

    def step_part(self, step: StepInput, rows: Sequence[int]) -> Candidates:
        """Of a step that raised, advance some rows only; all others stay as they are. If it raises too, these as well.

        Args:
            step: The whole of it.
            rows: Ascending. What is found comes in their order, and in the bits that the whole step would have found.
        """

    def probe(self, example: Pair) -> None:
        """Do once what every answer takes: encode, a step from the target's first token, a score if there is a scorer.

        No row or place is touched, and nothing kept spares the work. Raises what the runtime raises.
        """

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """One teacher-forced pass over several pairs; no row or place is touched. Needs ``can_score``."""
