"""What the scheduler knows of a running request, and what it asks of the engine. Values, with no decisions in them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from seqserve_server.capacity import Capacity
from seqserve_server.decoding.search import Continuation, Search
from seqserve_server.engine import SOURCE_MULTIPLE, Changes, Layout, RowCopy, Source
from seqserve_server.placement import Place, widths_for
from seqserve_server.request import Event, Request, ScoreRequest, Times

UNHELD = -1


@dataclass(slots=True, eq=False)
class Running:
    """A request that is decoded.

    A lane is one of the ``beam_size`` rows that it may have at once. Search and rows have orders of their own; lanes
    tie them together: live hypothesis ``h`` of the search is in lane ``lanes[h]``, and lane ``l`` in row ``rows[l]``.

    Attributes:
        position: How many tokens the state of each row holds, one per step.
        places: Where its source lies.
        rows: Row of each lane, or ``UNHELD``.
        tokens: What each lane is fed next.
        lanes: Lane of each live hypothesis.
        shared: How many leading positions hold the same in two lanes: ``shared[one][other]``.
        copies: What to copy before the next step: from lane, to lane, and how many positions are the same already.
    """

    request: Request
    times: Times
    search: Search
    places: list[Place]
    rows: list[int]
    tokens: list[int]
    lanes: list[int]
    shared: list[list[int]]
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    position: int = 0

    @classmethod
    def of(cls, request: Request, search: Search, now: float) -> "Running":
        """Before its first step, without rows and places."""
        beams = request.search.rows
        return cls(
            request, Times(request.arrival, admitted=now), search, [], [UNHELD] * beams,
            [request.prompt[0]] * beams, [0], [[0] * beams for _ in range(beams)],
        )

    @property
    def held(self) -> list[int]:
        """Lanes that have a row."""
        return [lane for lane, row in enumerate(self.rows) if row != UNHELD]

    def assign_lanes(self, live: Sequence[Continuation]) -> None:
        """Give each hypothesis that lives on a lane, with what it is fed next, and note what that makes to copy.

        The first to continue a hypothesis stays in its lane, so that only the others are copied, and nothing that is
        copied from is overwritten: there are no cycles.
        """
        if len(self.rows) == 1:
            self.tokens[0] = live[0].token
            return
        old, stays = self.lanes, set[int]()
        chosen: list[int | None] = []
        for continuation in live:
            lane = old[continuation.parent]
            chosen.append(None if lane in stays else lane)
            stays.add(lane)
        free = iter([lane for lane in range(len(self.rows)) if lane not in stays])
        self.lanes, self.copies = [], []
        for continuation, kept in zip(live, chosen, strict=True):
            lane = next(free) if kept is None else kept
            if kept is None:
                source = old[continuation.parent]
                # A lane without a row has forgotten what it once held.
                self.copies.append((source, lane, self.shared[source][lane] if self.rows[lane] != UNHELD else 0))
                self._note_copy(source, lane)
            self.lanes.append(lane)
            self.tokens[lane] = continuation.token

    def take_copies(self) -> list[RowCopy]:
        """What has to be copied before the next step, row to row; told once."""
        copies, self.copies = self.copies, []
        return [RowCopy(self.rows[source], self.rows[lane], start, self.position) for source, lane, start in copies]

    def _note_copy(self, source: int, lane: int) -> None:
        shared, length = self.shared, self.position + 1
        shared[lane] = shared[source][:]
        for row in shared:
            row[lane] = row[source]
        shared[source][lane] = shared[lane][source] = length
        shared[lane][lane] = 0


@dataclass(slots=True)
class Plan:
    """What to do before and in the next step, in this order: change, reserve, copy, encode, score,
    step.

    Attributes:
        ended: Terminal events of requests that ended without another step.
        need: What the buffers have to hold after the changes.
        encode: Encoder batches.
        tokens, positions: Of rows 0 .. n-1, for the step; empty when nothing runs.
        candidates: How many best tokens the searches need of each row.
        logits: Whether a search needs all logits.
        score: Passes over pairs, before the step; none where something is encoded.
    """

    ended: list[Event]
    changes: Changes
    need: Capacity
    copies: list[RowCopy]
    encode: list[list[Source]]
    tokens: list[int]
    positions: list[int]
    candidates: int
    logits: bool
    layout: Layout
    score: list[list[ScoreRequest]]


@dataclass(slots=True)
class Applied:
    """What came of a step.

    Attributes:
        events: Tokens of streaming requests, and one terminal event for each request that ended.
        tokens: How many requests got a token.
        joined: For how many of them it was the first.
    """

    events: list[Event]
    tokens: int = 0
    joined: int = 0


def need_of(requests: Iterable[Request], widths: Sequence[int]) -> Capacity:
    """What requests need at most until they end, if they run together."""
    rows = target = source = 0
    places = [0] * len(widths)
    for request in requests:
        rows += request.search.rows
        target, source = max(target, request.target_length), max(source, len(request.source))
        for width in widths_for(request.search.rows, widths):
            places[width] += 1
    return Capacity(rows, target, source, tuple(places))


def need_now(running: Collection[Running], rows: int, places: Sequence[int]) -> Capacity:
    """What they need for the next step, in so many rows and, of each width, places."""
    target = max([one.position + 1 for one in running], default=0)
    source = max([len(one.request.source) for one in running], default=0)
    return Capacity(rows, target, source, tuple(places))


def layout_of(rows: Iterable[tuple[Running, int]], widths: Sequence[int], counts: Sequence[int]) -> Layout:
    """Where each of the rows (a request and one of its lanes) finds its source."""
    widest = widths[-1]
    found = [(running.places[lane // widest], lane % widest) for running, lane in rows]
    return Layout(
        [place.width for place, _ in found], [place.index for place, _ in found], [offset for _, offset in found],
        list(counts),
    )


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
