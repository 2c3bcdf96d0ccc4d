"""What the scheduler knows of a running request, and what it asks of the engine. Values, with no decisions in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqserve_server.capacity import Capacity
from seqserve_server.engine import SOURCE_MULTIPLE, Move, Release, Source
from seqserve_server.request import Event, Request, Times


@dataclass(slots=True)
class Row:
    """A running request. ``token`` is fed next; ``position`` counts the tokens that its state holds, one per step."""

    request: Request
    times: Times
    token: int
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    position: int = 0

    @property
    def prompted(self) -> bool:
        """Whether the token to feed next is the prompt's last or a generated one, so that the step chooses a token."""
        return self.position >= len(self.request.prompt) - 1

    @property
    def is_last(self) -> bool:
        """Whether the limit allows one more token only."""
        return self.generated + 1 >= self.request.max_new_tokens

    @property
    def generated(self) -> int:
        """Tokens chosen so far, an end token included."""
        return len(self.log_probs)


@dataclass(slots=True)
class Plan:
    """What to do before and in the next step, in this order: release, move, reserve, encode, step.

    Attributes:
        ended: Terminal events of requests that ended without another step.
        encode: Encoder batches.
        tokens, positions: Of slots 0 .. n-1, for the step; empty when nothing runs.
        end_banned: Slots that may not end at this step.
        end_forced: Slots that have to.
        prompting: Slots whose prompt goes on after this step: what it chooses for them is not looked at.
        joining: Slots whose first token this step chooses.
    """

    ended: list[Event]
    release: list[Release]
    moves: list[Move]
    need: Capacity
    encode: list[list[Source]]
    tokens: list[int]
    positions: list[int]
    end_banned: list[int]
    end_forced: list[int]
    prompting: int
    joining: int


def need_of(rows: Sequence[Row], *, reserved: bool) -> Capacity:
    """What rows need: now (``reserved`` false), or at most until they end."""
    if not rows:
        return Capacity(0, 0, 0)
    target = max(row.request.target_length if reserved else row.position + 1 for row in rows)
    return Capacity(len(rows), target, max(len(row.request.source) for row in rows))


def group_by_length(sources: Sequence[Source]) -> list[list[Source]]:
    """Encoder batches of similar padded length: attention pays for the longest, so none is over twice its shortest."""
    groups: list[list[Source]] = []
    shortest = 0
    for source in sorted(sources, key=lambda source: len(source.token_ids)):
        padded = -(-len(source.token_ids) // SOURCE_MULTIPLE)
        if not groups or padded > 2 * shortest:
            groups.append([])
            shortest = padded
        groups[-1].append(source)
    return groups
