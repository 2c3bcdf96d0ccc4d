"""Between the event loop and the engine thread: requests out, events back to whoever waits for them."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from seqserve_server.call_record import CURRENT
from seqserve_server.errors import (
    DeadlineInQueue,
    DeadlinePassed,
    Draining,
    EngineFailure,
    EngineStopped,
    QueueFull,
)
from seqserve_server.gate import Entered, Gate
from seqserve_server.loop import Loop
from seqserve_server.quarantine import QuarantineDoor
from seqserve_server.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PairScored,
    Request,
    ScoreRequest,
    Terminal,
    TokensChosen,
)

Queued = TypeVar("Queued", Request, ScoreRequest)
Ended = TypeVar("Ended", Finished, PairScored)
Closed = EngineStopped | Draining
End = Terminal | Closed  # of a caller: what the engine said of its request, or why it will say nothing


@dataclass(slots=True)
class Batch:
    """A unary caller: waits until all of its requests ended."""

    done: asyncio.Future[None]
    ended: dict[int, End]
    count: int


@dataclass(slots=True)
class Stream:
    """A streaming caller. Tokens pile up here while it is slow: at most ``max_new_tokens`` numbers."""

    ready: asyncio.Event
    token_ids: list[int]
    ended: End | None = None


class Dispatcher:
    """Owns request ids and the callers that wait. All methods but ``publish`` belong to the event loop's thread."""

    def __init__(self, gate: Gate, quarantine: QuarantineDoor | None = None) -> None:
        self._gate, self._quarantine = gate, quarantine or QuarantineDoor()
        self._ids = itertools.count(1)
        self._callers: dict[int, Batch | Stream] = {}
        self._entered: dict[int, Entered] = {}
        self._event_loop = asyncio.get_running_loop()
        self._loop: Loop | None = None
        self._closed: type[Closed] | None = None

    @property
    def open_requests(self) -> int:
        """Requests whose terminal event has not come yet."""
        return self._gate.inside.requests

    @property
    def estimated_wait(self) -> float:
        """Seconds that a request which came now would wait for rows; 0 if unknown. May be read by any thread."""
        return self._gate.estimated_wait

    def attach(self, loop: Loop) -> None:
        """The loop that requests go to; it is made after this object because it publishes to it."""
        self._loop = loop

    def close(self, why: type[Closed]) -> None:
        """End every caller now, and whoever comes later at the door. What the engine still says is for nobody."""
        self._closed = why
        request_ids = list(self._callers)
        for request_id in request_ids:
            self._end(request_id, why())
        self._abandon(request_ids)

    def detach(self) -> None:
        """No request will come any more: dispatcher and loop let go of each other, and of the model's memory."""
        self._loop = None

    def publish(self, events: list[Event]) -> None:
        """Called by the engine thread, once per step: one hop for all events."""
        try:
            self._event_loop.call_soon_threadsafe(self._deliver, events)
        except RuntimeError:  # the event loop is closed: nobody is left to tell
            return

    def check_room(self, count: int, size: int, tenant: str) -> None:
        """Refuse a call of so many inputs in so many bytes before anything is made of it, if it cannot be let in.

        Raises:
            QueueFull: it cannot.
        """
        try:
            self._gate.check_room(count, size, tenant)
        except QueueFull:
            if (call := CURRENT.get()) is not None:
                call.requests = count  # they were offered, though nobody has read them
            raise

    async def generate(self, requests: Sequence[Request], *, size: int = 0) -> list[Finished]:
        """Run requests together; their ids are given here. Cancelling the caller cancels them all.

        Args:
            size: Bytes of the message that they came in.

        Raises:
            Quarantined, QueueFull, DeadlineUnreachable: none of them was let in.
            EngineFailure, EngineStopped, Draining, DeadlinePassed: one of them did not end well.
        """
        return [_completed(event, Finished) for event in await self._run(self._enter(requests, size))]

    async def score(
        self, requests: Sequence[ScoreRequest], *, size: int = 0, admitted: bool = False
    ) -> list[PairScored]:
        """Score pairs together; as ``generate``, which see.

        Args:
            admitted: They come of requests that were let in: there is place for them, for else the work that was done
                would be lost.
        """
        ended = await self._run(self._enter(requests, size, admitted=admitted))
        return [_completed(event, PairScored) for event in ended]

    async def _run(self, entered: Sequence[Request | ScoreRequest]) -> list[End]:
        """How they ended, when the last one has."""
        if not entered:
            return []
        batch = Batch(self._event_loop.create_future(), {}, len(entered))
        for request in entered:
            self._callers[request.id] = batch
        try:
            self._submit(entered)
            await batch.done
        finally:
            self._abandon([request.id for request in entered if request.id not in batch.ended])
        ended = [batch.ended[request.id] for request in entered]
        if (call := CURRENT.get()) is not None:
            for event in ended:
                if not isinstance(event, Closed):
                    call.ended(event)
        return ended

    async def stream(self, request: Request, *, size: int = 0) -> AsyncGenerator[list[int] | Finished, None]:
        """Run one request; yields new token ids as they come, then the end. Closing the iterator cancels it."""
        entered = self._enter([replace(request, stream=True)], size)[0]
        stream = Stream(asyncio.Event(), [])
        self._callers[entered.id] = stream
        try:
            self._submit([entered])
            ended = None
            while ended is None:
                await stream.ready.wait()
                stream.ready.clear()
                # Both are taken at one instant: tokens and the end that come while the caller writes take another turn.
                ended, token_ids, stream.token_ids = stream.ended, stream.token_ids, []
                if token_ids:
                    yield token_ids
            if (call := CURRENT.get()) is not None and not isinstance(ended, Closed):
                call.ended(ended)
            yield _completed(ended, Finished)
        finally:
            if stream.ended is None:
                self._abandon([entered.id])

    def _enter(self, requests: Sequence[Queued], size: int, *, admitted: bool = False) -> list[Queued]:
        if self._closed is not None:
            raise self._closed
        call = CURRENT.get()
        if call is not None and not admitted:
            call.offered(requests)
        requests = self._quarantine.marked(requests)
        now = time.monotonic()
        entered = self._gate.enter(requests, size, now, refuse=not admitted)
        numbered = [replace(request, id=next(self._ids), arrival=now) for request in requests]
        self._entered.update((request.id, each) for request, each in zip(numbered, entered, strict=True))
        return numbered

    def _submit(self, requests: Sequence[Request | ScoreRequest]) -> None:
        if self._loop is None:
            raise AssertionError("attach was not called")
        self._loop.submit(requests)

    def _abandon(self, request_ids: Sequence[int]) -> None:
        """Nobody waits any more. The place at the gate is given back when the terminal event comes, not before."""
        if request_ids and self._loop is not None:
            self._loop.cancel(request_ids)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TokensChosen):
                caller = self._callers.get(event.request_id)
                if isinstance(caller, Stream):
                    caller.token_ids += event.token_ids
                    caller.ready.set()
                continue
            self._end(event.request_id, event)

    def _end(self, request_id: int, end: End) -> None:
        """Of a request whose caller is known; what comes after its end is for nobody."""
        caller = self._callers.pop(request_id, None)
        if caller is None:
            return
        self._gate.leave(self._entered.pop(request_id))
        if isinstance(caller, Stream):
            caller.ended = end
            caller.ready.set()
            return
        caller.ended[request_id] = end
        if len(caller.ended) == caller.count and not caller.done.done():
            caller.done.set_result(None)


def _completed(event: End, kind: type[Ended]) -> Ended:
    if isinstance(event, Closed):
        raise event
    if isinstance(event, Failed):
        raise EngineStopped if event.engine_stopped else EngineFailure(event.message)
    if isinstance(event, Finished) and event.reason is FinishReason.DEADLINE:
        times = event.times
        if times.admitted is None and times.ended is not None:
            raise DeadlineInQueue(times.ended - times.arrival)
        raise DeadlinePassed
    if not isinstance(event, kind):
        raise AssertionError(f"nobody cancelled, but {event}")
    return event
