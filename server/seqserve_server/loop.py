"""The loop: the one owner of a model's scheduler and engine. Everybody else sends messages."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from seqserve_server.custody import Custody
from seqserve_server.engine import Engine, Pair, StepInput
from seqserve_server.isolation import Isolation
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
        source_lengths: Tokens of each source encoded, without those of pairs.
        score_seconds: One entry per pass over pairs.
        scored_tokens: Tokens whose log-probabilities were asked for.
        failures: Runs of the engine that raised.
    """

    rows: int = 0
    tokens: int = 0
    joined: int = 0
    encode_seconds: list[float] = field(default_factory=list)
    step_seconds: float = 0.0
    gap_seconds: float = 0.0
    source_tokens: int = 0
    source_lengths: list[int] = field(default_factory=list)
    score_seconds: list[float] = field(default_factory=list)
    scored_tokens: int = 0
    failures: int = 0
    waiting: int = 0
    running: int = 0


Publish = Callable[[list[Event]], None]
Observe = Callable[[StepFacts, list[Event]], None]


class Loop:
    """One model's iterations. ``submit`` and ``cancel`` may be called from any thread, all else by the one that steps.

    ``wake`` is called after every message; who steps loops (:mod:`.engine_thread`) sets it. ``example`` is what the
    engine has to be able to do before it is given up for requests that fail (:mod:`.isolation`); ``custody`` is what a
    crash journal has to do with it.
    """

    def __init__(
        self, engine: Engine, scheduler: Scheduler, publish: Publish,
        observe: Observe | None = None, clock: Callable[[], float] = time.monotonic, example: Pair | None = None,
        custody: Custody | None = None,
    ) -> None:
        self._engine, self._scheduler, self._isolation = engine, scheduler, Isolation(engine, example=example)
        self._publish, self._observe, self._clock = publish, observe, clock
        self._custody = Custody() if custody is None else custody  # one that holds nobody is falsy
        self.wake: Callable[[], None] = _nobody
        self._inbox: deque[Request | ScoreRequest | int] = deque()
        self._unpublished: list[Event] = []  # outlives a step that raises: its terminal events are owed all the same
        self._unreported: tuple[StepFacts, list[Event]] | None = None
        self._closed = False
        self._last_step = 0.0
        self._iterations = 0

    @property
    def progress(self) -> int:
        """Changes with every run of the engine that ends, and with every iteration. From any thread."""
        return self._isolation.runs + self._iterations

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._inbox) or not self._scheduler.idle or len(self._custody) > 0

    @property
    def empty(self) -> bool:
        """Whether every request that a step has seen has ended."""
        return self._scheduler.empty and not len(self._custody)

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
        self._custody.ended(self._unpublished)
        events = self._unpublished + self._take_inbox()
        self._unpublished = []
        events += [Failed(number, STOPPED, engine_stopped=True) for number in self._custody.fail_all()]
        # Callers first: an observer that raises may cost a figure, never a terminal event.
        self._publish(events + self._scheduler.fail_all(STOPPED))
        self.report()

    def let_go(self) -> None:
        """It was closed, and the engine is well: the crash journal need not know of its requests."""
        self._custody.let_go()

    def step(self) -> bool:
        """One iteration: plan, encode who arrives or score pairs, decode one token for all,
        publish. Returns whether work is left."""
        events = self._unpublished
        events += self._take_inbox()
        self._admit_suspects(events)
        plan = self._scheduler.plan(self._clock())
        events += plan.ended
        self._note(plan)
        facts, failures = StepFacts(), self._isolation.failures
        self._engine.change(plan.changes)
        if plan.tokens:
            self._engine.reserve(plan.need)
            self._engine.copy(plan.copies)
        self._score(plan, facts, events)
        if self._encode(plan, facts, events) and plan.tokens:
            self._decode(plan, facts, events)
        self._unpublished = []
        if events:
            self._custody.ended(events)
            self._publish(events)
        facts.waiting, facts.running = self._scheduler.waiting + len(self._custody), self._scheduler.running
        facts.failures = self._isolation.failures - failures
        self._unreported = (facts, events)
        self._iterations += 1
        return not self._scheduler.idle or len(self._custody) > 0

    def report(self) -> None:
        """Tell the observer of the step before, if it did anything."""
        unreported, self._unreported = self._unreported, None
        if self._observe is not None and unreported is not None:
            facts, events = unreported
            if facts.rows or events or facts.failures:
                self._observe(facts, events)

    def _admit_suspects(self, events: list[Event]) -> None:
        if len(self._custody):
            released, ended = self._custody.due(self._clock())
            events += ended
            for request in released:
                self._scheduler.submit(request)

    def _note(self, plan: Plan) -> None:
        """What is about to come into the engine: whatever it does to the process, that is known then."""
        if not self._custody.watches:
            return
        for sources in plan.encode:
            self._custody.enter(self._scheduler.requests_of(sources))
        for batch in plan.score:
            self._custody.enter(request.id for request in batch)

    def _encode(self, plan: Plan, facts: StepFacts, events: list[Event]) -> bool:
        """Encode arrivals. Returns whether all went well; if not, the step is planned anew without those that failed.

        Events are added one by one, here and below: should the engine be given up midway, none of them is lost.
        """
        well = True
        for batch in plan.encode:
            begun = self._clock()
            guilty = self._isolation.encode(batch, self._scheduler.requests_of)
            events += self._scheduler.fail(self._scheduler.requests_of(guilty), "the encoder failed")
            well = well and not guilty
            encoded = [source for source in batch if source not in guilty]
            if not encoded:
                continue
            now = self._clock()
            self._scheduler.encoded(encoded, now)
            facts.encode_seconds.append(now - begun)
            lengths = [len(source.token_ids) for source in encoded]
            facts.source_tokens += sum(lengths)
            facts.source_lengths += lengths
        return well

    def _score(self, plan: Plan, facts: StepFacts, events: list[Event]) -> None:
        """A turn of pairs. What is left of a pass that raises is tried again, pair by pair, in turns to come."""
        for batch in plan.score:
            begun = self._clock()
            found = self._isolation.score([request.pair for request in batch], [request.id for request in batch])
            if found is None:
                events += self._scheduler.pairs.failed(batch)
                continue
            now = self._clock()
            events += self._scheduler.pairs.scored(batch, found, now)
            facts.score_seconds.append(now - begun)
            facts.source_tokens += sum(len(request.pair.source) for request in batch)
            facts.scored_tokens += sum(len(scored.log_probs) for scored in found)

    def _decode(self, plan: Plan, facts: StepFacts, events: list[Event]) -> None:
        begun = self._clock()
        step = StepInput(plan.tokens, plan.positions, plan.candidates, plan.layout, logits=plan.logits)
        candidates, guilty = self._isolation.step(step, lambda: {
            number: self._scheduler.rows_of(number) for number in self._scheduler.running_ids()
        })
        events += self._scheduler.fail(guilty, "the decoder failed")
        now = self._clock()
        facts.rows, facts.step_seconds, facts.gap_seconds = len(plan.tokens), now - begun, now - self._last_step
        self._last_step = now
        applied = self._scheduler.apply(
            candidates.token_ids.tolist(), candidates.log_probs.tolist(), candidates.logits, now
        )
        facts.tokens, facts.joined = applied.tokens, applied.joined
        events += applied.events

    def _take_inbox(self) -> list[Event]:
        events: list[Event] = []
        for message in self._messages():
            if isinstance(message, int):
                now = self._clock()
                events += self._custody.cancel(message, now) or self._scheduler.cancel(message, now)
            elif self._custody.passes(message):
                self._scheduler.submit(message)
        return events

    def _messages(self) -> Iterator[Request | ScoreRequest | int]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._inbox.popleft()


def _nobody() -> None:
    """Whoever steps a loop by hand needs not be woken."""
