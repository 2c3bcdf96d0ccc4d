"""The loop: the one owner of a model's scheduler and engine. Everybody else sends messages."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from seqserve_server.engine import Engine, Source, StepInput
from seqserve_server.plan import Plan
from seqserve_server.request import Event, Failed, Request, ScoreRequest
from seqserve_server.scheduler import Scheduler

logger = logging.getLogger(__name__)
STOPPED = "the engine has stopped"


@dataclass(slots=True)
class StepFacts:
    """What one iteration did, for whoever watches.

    Attributes:
        rows: Rows in the decoder step, 0 if there was none.
        tokens: Tokens it gave: one for each request that did not fail and whose prompt is over, however many
            hypotheses it has.
        joined: Of these, first ones.
        encode_seconds: One entry per encoder batch.
        step_seconds: Time in the decoder step.
        gap_seconds: From the end of the step before, which requests that were already running waited for their token.
        source_tokens: Tokens encoded, those of pairs included.
        score_seconds: One entry per pass over pairs.
        scored_tokens: Tokens whose log-probabilities were asked for.
    """

    rows: int = 0
    tokens: int = 0
    joined: int = 0
    encode_seconds: list[float] = field(default_factory=list)
    step_seconds: float = 0.0
    gap_seconds: float = 0.0
    source_tokens: int = 0
    score_seconds: list[float] = field(default_factory=list)
    scored_tokens: int = 0
    waiting: int = 0
    running: int = 0


Publish = Callable[[list[Event]], None]
Observe = Callable[[StepFacts, list[Event]], None]


class Loop:
    """One model's iterations. ``submit`` and ``cancel`` may be called from any thread, all else by the one that steps.

    ``wake`` is called after every message; who steps loops (:mod:`.engine_thread`) sets it.
    """

    def __init__(
        self, engine: Engine, scheduler: Scheduler, publish: Publish,
        observe: Observe | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._scheduler = engine, scheduler
        self._publish, self._observe, self._clock = publish, observe, clock
        self.wake: Callable[[], None] = _nobody
        self._inbox: deque[Request | ScoreRequest | int] = deque()
        self._unpublished: list[Event] = []  # outlives a step that raises: its terminal events are owed all the same
        self._unreported: tuple[StepFacts, list[Event]] | None = None
        self._closed = False
        self._last_step = 0.0

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._inbox) or not self._scheduler.idle

    @property
    def empty(self) -> bool:
        """Whether every request that a step has seen has ended."""
        return self._scheduler.empty

    def submit(self, requests: Sequence[Request | ScoreRequest]) -> None:
        """Hand over requests and pairs that admission let in."""
        self._inbox.extend(requests)
        self.wake()
        if self._closed:  # either the last look into the inbox saw them, or this line sees that it is over
            late = [message for message in self._messages() if not isinstance(message, int)]
            self._publish([Failed(request.id, STOPPED, engine_stopped=True) for request in late])

    def cancel(self, request_ids: Sequence[int]) -> None:
        """End requests early; ended ones are ignored."""
        self._inbox.extend(request_ids)
        self.wake()

    def close(self) -> None:
        """No step will follow, whatever the reason: every open request gets its terminal event, later ones at once."""
        self._closed = True
        events = self._unpublished + self._take_inbox()
        self._unpublished = []
        # Callers first: an observer that raises may cost a figure, never a terminal event.
        self._publish(events + self._scheduler.fail_all(STOPPED))
        self.report()

    def step(self) -> bool:
        """One iteration: plan, encode who arrives or score pairs, decode one token for all,
        publish. Returns whether work is left."""
        events = self._unpublished
        events += self._take_inbox()
        plan = self._scheduler.plan(self._clock())
        events += plan.ended
        facts = StepFacts()
        self._engine.change(plan.changes)
        if plan.tokens:
            self._engine.reserve(plan.need)
            self._engine.copy(plan.copies)
        events += self._score(plan, facts)
        failed = self._encode(plan, facts)
        if failed:
            events += failed
        elif plan.tokens:
            events += self._decode(plan, facts)
        self._unpublished = []
        if events:
            self._publish(events)
        facts.waiting, facts.running = self._scheduler.waiting, self._scheduler.running
        self._unreported = (facts, events)
        return not self._scheduler.idle

    def report(self) -> None:
        """Tell the observer of the step before, if it did anything."""
        unreported, self._unreported = self._unreported, None
        if self._observe is not None and unreported is not None:
            facts, events = unreported
            if facts.rows or events:
                self._observe(facts, events)

    def _encode(self, plan: Plan, facts: StepFacts) -> list[Event]:
        """Encode arrivals. Returns failures; the step is then planned anew without those rows."""
        failed: list[Event] = []
        for batch in plan.encode:
            begun = self._clock()
            try:
                self._engine.encode(batch)
            except Exception as error:  # noqa: BLE001 - whatever it was, its requests must be told
                failed += self._fail(batch, error)
                continue
            now = self._clock()
            self._scheduler.encoded(batch, now)
            facts.encode_seconds.append(now - begun)
            facts.source_tokens += sum(len(source.token_ids) for source in batch)
        return failed

    def _score(self, plan: Plan, facts: StepFacts) -> list[Event]:
        """A turn of pairs. What is left of a pass that raises is tried again, pair by pair, in turns to come."""
        events: list[Event] = []
        for batch in plan.score:
            begun = self._clock()
            try:
                found = self._engine.score([request.pair for request in batch])
            except Exception:
                logger.exception("a pass over %d pairs failed", len(batch))
                events += self._scheduler.pairs.failed(batch)
                continue
            now = self._clock()
            events += self._scheduler.pairs.scored(batch, found, now)
            facts.score_seconds.append(now - begun)
            facts.source_tokens += sum(len(request.pair.source) for request in batch)
            facts.scored_tokens += sum(len(scored.log_probs) for scored in found)
        return events

    def _decode(self, plan: Plan, facts: StepFacts) -> list[Event]:
        begun = self._clock()
        try:
            candidates = self._engine.step(StepInput(
                plan.tokens, plan.positions, plan.candidates, plan.layout, logits=plan.logits,
            ))
        except Exception:
            logger.exception("a decoder step over %d rows failed", len(plan.tokens))
            return self._scheduler.fail(self._scheduler.running_ids(), "the decoder failed")
        now = self._clock()
        facts.rows, facts.step_seconds, facts.gap_seconds = len(plan.tokens), now - begun, now - self._last_step
        self._last_step = now
        applied = self._scheduler.apply(
            candidates.token_ids.tolist(), candidates.log_probs.tolist(), candidates.logits, now
        )
        facts.tokens, facts.joined = applied.tokens, applied.joined
        return applied.events

    def _fail(self, batch: Sequence[Source], error: Exception) -> list[Event]:
        logger.error("an encoder batch of %d failed", len(batch), exc_info=error)
        return self._scheduler.fail(self._scheduler.requests_of(batch), "the encoder failed")

    def _take_inbox(self) -> list[Event]:
        events: list[Event] = []
        for message in self._messages():
            if isinstance(message, int):
                events += self._scheduler.cancel(message, self._clock())
            else:
                self._scheduler.submit(message)
        return events

    def _messages(self) -> Iterator[Request | ScoreRequest | int]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._inbox.popleft()


def _nobody() -> None:
    """Whoever steps a loop by hand needs not be woken."""
