"""Which request runs where: iteration-level continuous batching over slots. Values in, values out.

A slot is an index into every state buffer. Running rows always occupy slots 0 .. n-1: when rows leave, arriving
requests take their slots first, and rows from the end are moved into what is left. No clock, thread, transport or
runtime is known here.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from seqserve_server.capacity import Capacity, SchedulerLimits
from seqserve_server.decoding.choice import Choice
from seqserve_server.engine import SOURCE_MULTIPLE, Move, Release, Source
from seqserve_server.request import Event, Failed, Finished, FinishReason, Request, Times, TokensChosen


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


class Scheduler:
    """Owns the waiting queue and the slots. ``plan`` and ``apply`` alternate.

    ``forced_end`` makes a row's last allowed token the end token; it then still ends for its length.
    """

    def __init__(self, limits: SchedulerLimits, end_id: int, *, forced_end: bool = False) -> None:
        self._limits = limits
        self._end_id, self._forced_end = end_id, forced_end
        self._waiting: deque[Request] = deque()
        self._waiting_ids: set[int] = set()
        self._rows: list[Row | None] = []
        self._slots: dict[int, int] = {}
        self._dirty: dict[int, Release] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __repr__(self) -> str:
        return f"Scheduler(waiting={self.waiting}, running={self.running}, slots={len(self._rows)})"

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting_ids)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._slots)

    @property
    def empty(self) -> bool:
        """Whether nothing waits or runs."""
        return not (self._waiting_ids or self._slots)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs or is left to clean up."""
        return self.empty and not self._dirty

    def submit(self, request: Request) -> None:
        """Queue a request that admission let in. Its id must be new."""
        self._waiting.append(request)
        self._waiting_ids.add(request.id)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.id))
            if len(self._deadlines) > 2 * (self.waiting + self.running) + 64:  # most have ended: do not keep them
                open_ids = self._waiting_ids | self._slots.keys()
                self._deadlines = sorted(entry for entry in self._deadlines if entry[1] in open_ids)

    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        """End a request early; its slot is free at the next plan. Unknown or ended ids are ignored."""
        if request_id in self._waiting_ids:
            self._waiting_ids.discard(request_id)
            request = next(r for r in self._waiting if r.id == request_id)
            self._waiting.remove(request)
            return [Finished(request_id, reason, [], [], Times(request.arrival, ended=now))]
        if request_id in self._slots:
            row = self._leave(request_id)
            row.times.ended = now
            return [Finished(request_id, reason, row.token_ids, row.log_probs, row.times)]
        return []

    def plan(self, now: float) -> Plan:
        """Expire, free, admit and compact; say what the engine has to do next."""
        ended = self._expire(now)
        release = list(self._dirty.values())
        self._dirty.clear()
        admitted = self._admit()
        sources = [self._place(request, now) for request in admitted]
        moves = self._compact()
        rows = [row for row in self._rows if row is not None]
        return Plan(
            ended=ended,
            release=release,
            moves=moves,
            need=_need(rows, reserved=False),
            encode=group_by_length(sources),
            tokens=[row.token for row in rows],
            positions=[row.position for row in rows],
            end_banned=[slot for slot, row in enumerate(rows) if row.generated < row.request.min_new_tokens],
            end_forced=[slot for slot, row in enumerate(rows) if self._forced_end and row.prompted and _is_last(row)],
            prompting=sum(not row.prompted for row in rows),
            joining=sum(row.prompted and not row.generated for row in rows),
        )

    def encoded(self, sources: Sequence[Source], now: float) -> None:
        """Note when an encoder batch was done."""
        for source in sources:
            row = self._rows[source.slot]
            if row is not None:
                row.times.encoded = now

    def apply(self, choice: Choice, now: float) -> list[Event]:
        """Advance every row by its chosen token.

        Returns:
            Tokens of streaming rows, and one terminal event for each row that ended here.
        """
        events: list[Event] = []
        for row, token, log_prob in zip(list(self._rows), choice.tokens, choice.log_probs, strict=True):
            if row is None:
                raise AssertionError("a plan left a hole among the running rows")
            if not math.isfinite(log_prob):
                self._leave(row.request.id)
                events.append(Failed(row.request.id, "the model produced a value that is not finite"))
                continue
            prompt, row.position = row.request.prompt, row.position + 1
            if row.position < len(prompt):
                row.token = prompt[row.position]
                continue
            forced = self._forced_end and _is_last(row)
            row.log_probs.append(log_prob)
            row.token = token
            if row.times.first_token is None:
                row.times.first_token = now
            if token != self._end_id:
                row.token_ids.append(token)
                if row.request.stream:
                    events.append(TokensChosen(row.request.id, [token]))
            if token == self._end_id or row.generated >= row.request.max_new_tokens:
                ended = token == self._end_id and not forced
                events.append(self._finish(row, FinishReason.EOS if ended else FinishReason.LENGTH, now))
        return events

    def fail(self, request_ids: Sequence[int], message: str) -> list[Event]:
        """End running requests because the engine could not go on with them."""
        events: list[Event] = []
        for request_id in request_ids:
            if request_id in self._slots:
                self._leave(request_id)
                events.append(Failed(request_id, message))
        return events

    def fail_all(self, message: str) -> list[Event]:
        """End everything, waiting requests too: the engine is gone."""
        ids = [*self._slots, *(request.id for request in self._waiting)]
        for request_id in list(self._slots):
            self._leave(request_id)
        events: list[Event] = [Failed(request_id, message, engine_stopped=True) for request_id in ids]
        self._waiting.clear()
        self._waiting_ids.clear()
        return events

    def request_in(self, slot: int) -> int | None:
        """Id of the request that holds a slot."""
        row = self._rows[slot] if slot < len(self._rows) else None
        return None if row is None else row.request.id

    def running_ids(self) -> list[int]:
        """Ids of the requests that hold slots."""
        return list(self._slots)

    def _expire(self, now: float) -> list[Event]:
        ended: list[Event] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heapq.heappop(self._deadlines)
            ended += self.cancel(request_id, now, FinishReason.DEADLINE)
        return ended

    def _admit(self) -> list[Request]:
        """Take requests from the front of the queue while rows, memory and encoder work allow. Nobody overtakes."""
        admitted: list[Request] = []
        reserved = _need([row for row in self._rows if row is not None], reserved=True)
        tokens = 0
        while self._waiting:
            request = self._waiting[0]
            tokens += len(request.source)
            need = Capacity(reserved.rows + 1, max(reserved.target, request.target_length),
                            max(reserved.source, len(request.source)))
            full = need.rows > self._limits.max_rows or not self._limits.fits(need)
            if full or (admitted and tokens > self._limits.encode_tokens):
                break
            reserved = need
            self._waiting_ids.discard(request.id)
            admitted.append(self._waiting.popleft())
        return admitted

    def _place(self, request: Request, now: float) -> Source:
        row = Row(request, Times(request.arrival, admitted=now), request.prompt[0])
        slot = next((index for index, other in enumerate(self._rows) if other is None), len(self._rows))
        self._rows[slot : slot + 1] = [row]
        self._slots[request.id] = slot
        return Source(slot, request.source)

    def _compact(self) -> list[Move]:
        """Fill holes with rows from the end, so that running rows are slots 0 .. n-1."""
        moves: list[Move] = []
        hole = 0
        while True:
            while self._rows and self._rows[-1] is None:
                self._rows.pop()
            while hole < len(self._rows) and self._rows[hole] is not None:
                hole += 1
            if hole >= len(self._rows):
                return moves
            row = self._rows.pop()
            if row is None:
                raise AssertionError("the last row was just seen to be there")
            moves.append(Move(len(self._rows), hole, row.position, len(row.request.source)))
            self._rows[hole] = row
            self._slots[row.request.id] = hole

    def _leave(self, request_id: int) -> Row:
        slot = self._slots.pop(request_id)
        row = self._rows[slot]
        if row is None:
            raise AssertionError(f"slot {slot} was already empty")
        self._rows[slot] = None
        # One position more than counted: a step that failed half-way may have written it.
        self._dirty[slot] = Release(slot, row.position + 1, len(row.request.source))
        return row

    def _finish(self, row: Row, reason: FinishReason, now: float) -> Finished:
        self._leave(row.request.id)
        row.times.ended = now
        return Finished(row.request.id, reason, row.token_ids, row.log_probs, row.times)


def _need(rows: Sequence[Row], *, reserved: bool) -> Capacity:
    """What rows need: now (``reserved`` false), or at most until they end."""
    if not rows:
        return Capacity(0, 0, 0)
    target = max(row.request.target_length if reserved else row.position + 1 for row in rows)
    return Capacity(len(rows), target, max(len(row.request.source) for row in rows))


def _is_last(row: Row) -> bool:
    return row.generated + 1 >= row.request.max_new_tokens


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
