"""What a crash journal has to do with one loop: notes of what is in the engine, suspects that wait for their turn.

Values in, values out; time is an argument. The journal, which is a file, comes in from outside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from seqserve_server.request import (
    Event,
    Finished,
    FinishReason,
    PairScored,
    Request,
    ScoreRequest,
    Times,
    TokensChosen,
)
from seqserve_server.scheduler import NOTHING
from seqserve_server.suspects import Suspects

Queued = Request | ScoreRequest
OWN_ENDS = (FinishReason.EOS, FinishReason.LENGTH, FinishReason.STOP)


class Notes(Protocol):
    """Of a ``CrashJournal``, what a loop writes."""

    def enter(self, digest: bytes) -> int | None:
        """A request comes into the engine; returns where it is noted."""

    def leave(self, slot: int) -> None:
        """It has ended."""

    def forget(self, digest: bytes) -> None:
        """It is no suspect any more."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What all loops of a process share."""

    suspects: Suspects
    notes: Notes


class Custody:
    """Of one loop; belongs to the thread that steps it. Without a ``watch`` everything passes and nothing is noted.

    A suspect has the turn from when it goes to the scheduler to its end: it waits twice where there is a queue.
    Requests without a digest pass.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._digests: dict[int, bytes] = {}  # of all that went to the scheduler and have not ended
        self._held: dict[int, Queued] = {}
        self._slots: dict[int, int | None] = {}  # of what is in the engine
        self._runs: int | None = None  # the suspect that has the turn, if it is one of this loop's

    @property
    def watches(self) -> bool:
        """Whether there is a journal; without one what comes into the engine need not be looked up."""
        return self._watch is not None

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._held)

    def passes(self, request: Queued) -> bool:
        """Whether a new request goes to the scheduler now; otherwise it waits here."""
        if self._watch is None or not request.digest:
            return True
        if self._watch.suspects.is_suspect(request.digest) and not self._takes_turn(request.id):
            self._held[request.id] = request
            return False
        self._digests[request.id] = request.digest
        return True

    def _takes_turn(self, request_id: int) -> bool:
        if self._watch is None or not self._watch.suspects.take_turn():
            return False
        self._runs = request_id
        return True

    def due(self, now: float) -> tuple[list[Queued], list[Event]]:
        """Those whose turn has come, and the ends of those whose time is over."""
        ended: list[Event] = []
        for request in list(self._held.values()):
            if request.deadline is not None and request.deadline <= now:
                ended += self.cancel(request.id, now, FinishReason.DEADLINE)
        released: list[Queued] = []
        for request in list(self._held.values()):
            # One that is no suspect any more was cleared by another copy of it.
            cleared = self._watch is None or not self._watch.suspects.is_suspect(request.digest)
            if cleared or (self._runs is None and self._takes_turn(request.id)):
                released.append(self._held.pop(request.id))
                self._digests[request.id] = request.digest
        return released, ended

    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        """End one that waits here; others are ignored."""
        request = self._held.pop(request_id, None)
        return [] if request is None else [Finished(request_id, reason, [NOTHING], Times(request.arrival, ended=now))]

    def enter(self, request_ids: Iterable[int]) -> None:
        """These are about to be given to the engine; some may be there already."""
        if self._watch is None:
            return
        for request_id in request_ids:
            digest = self._digests.get(request_id)
            if digest is not None and request_id not in self._slots:
                self._slots[request_id] = self._watch.notes.enter(digest)

    def ended(self, events: Sequence[Event]) -> None:
        """Take note of terminal events, before anybody is told of them."""
        if self._watch is None:
            return
        for event in events:
            if isinstance(event, TokensChosen):
                continue
            digest = self._digests.get(event.request_id)
            self._release(event.request_id)
            well = isinstance(event, PairScored) or (isinstance(event, Finished) and event.reason in OWN_ENDS)
            if well and digest is not None and self._watch.suspects.is_suspect(digest):
                self._watch.suspects.clear(digest)
                self._watch.notes.forget(digest)

    def _release(self, request_id: int) -> None:
        self._digests.pop(request_id, None)
        slot = self._slots.pop(request_id, None)
        if self._watch is not None and slot is not None:
            self._watch.notes.leave(slot)
        if self._watch is not None and self._runs == request_id:
            self._runs = None
            self._watch.suspects.end_turn()

    def fail_all(self) -> list[int]:
        """Those that wait here do so no longer; returns their ids. What is in the engine stays noted."""
        ids = list(self._held)
        self._held.clear()
        return ids

    def let_go(self) -> None:
        """The loop has ended in good order: nothing of it is in the engine."""
        for request_id in list(self._digests):
            self._release(request_id)
