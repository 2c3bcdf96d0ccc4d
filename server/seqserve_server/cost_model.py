"""How long things take, learned from what they took: steps by rows, the encoder by tokens, answers in tokens. Pure.

Everything is weighted so that older observations count less, and half of what is known comes from the last few dozen.
The same observations in the same order always give the same costs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seqserve_server.request import TARGET_COST, Event, Finished, FinishReason, Request, ScoreRequest

if TYPE_CHECKING:
    from seqserve_server.loop import StepFacts

DECAY = 0.98
LEAST_STEPS, LEAST_ANSWERS = 16, 8  # before these, nothing is known
PUBLISH_EVERY = 8  # steps


@dataclass(slots=True)  # not frozen, which would take three times as long to make; nobody changes one
class Load:
    """What requests bring with them, or what is inside.

    Attributes:
        rows: Hypotheses that run at once.
        steps: The most steps of single rows.
        sources: Tokens to encode, prompts included; of pairs to score, their cost.
        bytes: Of the messages that they came in.
    """

    requests: int = 0
    rows: int = 0
    steps: int = 0
    sources: int = 0
    bytes: int = 0

    @property
    def tokens(self) -> int:
        """All that may have to be computed."""
        return self.steps + self.sources

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.requests + other.requests, self.rows + other.rows, self.steps + other.steps,
            self.sources + other.sources, self.bytes + other.bytes,
        )

    def __sub__(self, other: "Load") -> "Load":
        return Load(
            self.requests - other.requests, self.rows - other.rows, self.steps - other.steps,
            self.sources - other.sources, self.bytes - other.bytes,
        )

    @classmethod
    def of(cls, request: Request | ScoreRequest, size: int = 0) -> "Load":
        """Of one, from a message with ``size`` bytes for it."""
        if isinstance(request, ScoreRequest):
            return cls(1, 0, 0, request.cost, size)
        rows = request.search.rows
        return cls(1, rows, rows * request.search.max_new_tokens, len(request.source) + len(request.prompt), size)


@dataclass(slots=True)
class Trend:
    """y by x: weighted least squares of a straight line, neither end of which is below 0."""

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def note(self, x: float, y: float) -> None:
        """One observation."""
        self.count = self.count * DECAY + 1
        self.x = self.x * DECAY + x
        self.y = self.y * DECAY + y
        self.xx = self.xx * DECAY + x * x
        self.xy = self.xy * DECAY + x * y

    def line(self) -> tuple[float, float]:
        """y at 0, and what each unit of x adds; flat where all x were much the same."""
        if not self.count:
            return 0.0, 0.0
        spread = self.xx * self.count - self.x * self.x
        if spread <= 1e-3 * self.xx * self.count:
            return self.y / self.count, 0.0
        slope = max(0.0, (self.xy * self.count - self.x * self.y) / spread)
        base = (self.y - slope * self.x) / self.count
        return (base, slope) if base >= 0 else (0.0, self.xy / self.xx)


@dataclass(slots=True)
class Average:
    """A weighted mean and standard deviation."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def note(self, value: float) -> None:
        """One observation."""
        self.count = self.count * DECAY + 1
        self.total = self.total * DECAY + value
        self.squares = self.squares * DECAY + value * value

    @property
    def mean(self) -> float:
        """0 where nothing was noted."""
        return self.total / self.count if self.count else 0.0

    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        return self.mean, math.sqrt(max(0.0, self.squares / self.count - self.mean**2))


@dataclass(frozen=True, slots=True)
class Costs:
    """What has been learned, at one time. Seconds, but for ``tokens``.

    Attributes:
        step: Of a decoder step, and of each row in it.
        gap: Between two tokens of a request, the same: the step, and what is encoded and scored between steps.
        encode: Of an encoder batch, and of each token in it.
        score: Of a turn of pairs, and of each of their costs.
        tokens: Mean number of steps that an answer takes, and its standard deviation.
        started: Part of all requests that get rows; the others expire or are cancelled while they wait.
    """

    step: tuple[float, float]
    gap: tuple[float, float]
    encode: tuple[float, float]
    score: tuple[float, float]
    tokens: tuple[float, float]
    started: float = 1.0

    def step_seconds(self, rows: int) -> float:
        """Of a step over so many rows."""
        return self.step[0] + self.step[1] * rows

    def gap_seconds(self, rows: int) -> float:
        """From token to token where so many rows run."""
        return self.gap[0] + self.gap[1] * rows

    def wait_seconds(self, ahead: Load, own: Load, max_rows: int, *, certainty: float = 0.0) -> float:
        """How long until the last of ``own`` has rows, if all that is ``ahead`` goes before.

        Of those ahead, as many as fill all rows need not have ended by then; where they run already, they are as far as
        those that will be left running.

        Args:
            certainty: Standard deviations by which answers may be shorter than expected.
        """
        if not own.rows:
            return self.score[1] * ahead.sources
        rows = max(0.0, ahead.rows * self.started + own.rows - max_rows)
        together = ahead + own
        mean, deviation = self.tokens
        answers = max(1.0, rows * together.requests / together.rows)
        steps = max(rows, rows * (mean - certainty * deviation / math.sqrt(answers)))
        steps = min(steps, rows * together.steps / together.rows)
        return steps * self.gap_seconds(max_rows) / max_rows

    def least_seconds(self, ahead: Load, own: Load, max_rows: int, least_tokens: int = 1) -> float:
        """When the last of ``own`` may have ended at the very earliest.

        Those ahead have short answers; ``own`` has answers of ``least_tokens``, in steps of its own rows alone.
        """
        wait = self.wait_seconds(ahead, own, max_rows, certainty=2.0)
        if not own.rows:
            return wait + self.score[1] * own.sources
        own_rows = min(own.rows, max_rows)
        return wait + self.encode[1] * own.sources / own.requests + max(1, least_tokens) * self.step_seconds(own_rows)

    def needed_seconds(self, request: Request, max_rows: int) -> float:
        """How long a request takes from here on, among as many others as there can be, unless its answer is long."""
        mean, deviation = self.tokens
        steps = max(request.search.min_new_tokens, min(mean + deviation, request.search.max_new_tokens))
        steps += len(request.prompt) - 1
        return self.encode[0] + self.encode[1] * len(request.source) + steps * self.gap_seconds(max_rows)

    def request_seconds(self, max_rows: int) -> float:
        """From one end to the next, where all rows are in use by requests of one row."""
        return self.tokens[0] * self.gap_seconds(max_rows) / max_rows


@dataclass(slots=True)
class CostModel:
    """Learns. ``observe`` belongs to one thread; ``costs`` may be read by any, and is replaced as a whole.

    Attributes:
        costs: None until enough was seen to say anything.
    """

    costs: Costs | None = None
    _step: Trend = field(default_factory=Trend)
    _gap: Trend = field(default_factory=Trend)
    _encode: Trend = field(default_factory=Trend)
    _score: Trend = field(default_factory=Trend)
    _tokens: Average = field(default_factory=Average)
    _started: Average = field(default_factory=Average)
    _steps: int = 0
    _answers: int = 0

    def observe(self, facts: "StepFacts", events: Sequence[Event]) -> None:
        """Take in one iteration of the loop."""
        if facts.encode_seconds:
            self._encode.note(facts.source_tokens, sum(facts.encode_seconds))
        elif facts.score_seconds:
            self._score.note(facts.source_tokens + TARGET_COST * facts.scored_tokens, sum(facts.score_seconds))
        for event in events:
            if isinstance(event, Finished):
                self._started.note(event.times.admitted is not None)
                tokens = len(event.hypotheses[0].log_probs)
                if event.reason in _WHOLE:
                    self._tokens.note(tokens)
                    self._answers += 1
                elif event.reason is FinishReason.DEADLINE and tokens > self._tokens.mean:
                    self._tokens.note(tokens)  # it was to have more: of short answers alone one learns too little
        if facts.rows:
            self._step.note(facts.rows, facts.step_seconds)
            if facts.tokens > facts.joined:  # else nobody waited since the step before
                self._gap.note(facts.rows, facts.gap_seconds)
            self._steps += 1
            if self._steps % PUBLISH_EVERY == 0:
                self._publish()

    def needed_seconds(self, request: Request, max_rows: int) -> float:
        """As ``Costs`` has it; 0 as long as nothing is known."""
        return 0.0 if self.costs is None else self.costs.needed_seconds(request, max_rows)

    def _publish(self) -> None:
        if self._steps >= LEAST_STEPS and self._answers >= LEAST_ANSWERS:
            gap = self._gap if self._gap.count else self._step
            self.costs = Costs(
                self._step.line(), gap.line(), self._encode.line(), self._score.line(), self._tokens.spread(),
                self._started.mean,
            )


_WHOLE = (FinishReason.EOS, FinishReason.LENGTH, FinishReason.STOP)
