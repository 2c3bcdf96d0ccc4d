"""A request, a pair to score, and the events that end them or tell of their progress.

Times are seconds of one monotonic clock.
"""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.search import Hypothesis, SearchSettings
from seqserve_server.engine import Pair

TARGET_COST = 3
"""Source tokens that are encoded in the time that one target token takes: it goes through a decoder and the logits of a
whole vocabulary. Measured: 3.2, in a pass of the demo model over 16 pairs of 16 and 16 tokens, on one thread."""


class FinishReason(Enum):
    """Why a request ended without failing."""

    EOS = "eos"
    LENGTH = "length"
    STOP = "stop"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"

    @classmethod
    def of(cls, best: Hypothesis) -> "FinishReason":
        """Why a search that is over ended, by its best hypothesis."""
        if best.stopped:
            return cls.STOP
        return cls.EOS if best.ended else cls.LENGTH


@dataclass(frozen=True, slots=True)
class Request:
    """One source to decode.

    Attributes:
        source: Complete source ids, special tokens included; checked against vocabulary and limits.
        prompt: What the decoder is fed before it chooses: the start token, then forced ones, then the prefix. They are
            not generated.
        search: How its tokens are chosen.
        deadline: When the caller stops waiting, or None.
        stream: Whether tokens are published as they come.
        priority: Higher goes first, see :mod:`.waiting`.
        tenant: On whose account it goes; empty for those that give none.
        digest: By what a crash journal knows it; empty where there is none.
    """

    id: int
    source: tuple[int, ...]
    prompt: tuple[int, ...]
    search: SearchSettings
    arrival: float = 0.0
    deadline: float | None = None
    stream: bool = False
    priority: int = 0
    tenant: str = ""
    digest: bytes = b""

    @property
    def target_length(self) -> int:
        """The most positions that its rows can write: the last generated token is never fed."""
        return len(self.prompt) - 1 + self.search.max_new_tokens


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One pair to score; checked against vocabularies and limits. The rest as for a ``Request``."""

    id: int
    pair: Pair
    arrival: float = 0.0
    deadline: float | None = None
    priority: int = 0
    tenant: str = ""
    digest: bytes = b""

    @property
    def cost(self) -> int:
        """What a pass has to compute for it, in tokens of an encoder batch."""
        return len(self.pair.source) + TARGET_COST * len(self.pair.target)


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds a request spent: waiting, in the encoder, from there to its last token, and from arrival to both ends."""

    queue: float
    encode: float
    decode: float
    total: float
    first_token: float


@dataclass(slots=True)
class Times:
    """When a request reached each stage; None while it has not."""

    arrival: float
    admitted: float | None = None
    encoded: float | None = None
    first_token: float | None = None
    ended: float | None = None

    def durations(self) -> Durations:
        """Of a request that went through every stage, as one that ends by itself has."""
        admitted, encoded, first, ended = self.admitted, self.encoded, self.first_token, self.ended
        if admitted is None or encoded is None or first is None or ended is None:
            raise AssertionError(f"a finished request skipped a stage: {self}")
        start = self.arrival
        return Durations(admitted - start, encoded - admitted, ended - encoded, ended - start, first - start)


@dataclass(frozen=True, slots=True)
class TokensChosen:
    """New tokens of a streaming request that no answer will take back; the end token is never among them."""

    request_id: int
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Finished:
    """Terminal. ``hypotheses`` are best first, at least one; of a request ended from outside, what there is.

    A pair that is ended from outside ends in this way too, with an empty hypothesis.
    """

    request_id: int
    reason: FinishReason
    hypotheses: list[Hypothesis]
    times: Times = field(compare=False)

    @property
    def finish_reason(self) -> str:
        """The reason as a word."""
        return self.reason.value

    @property
    def token_ids(self) -> list[int]:
        """The best answer's, without the end token."""
        return self.hypotheses[0].token_ids

    @property
    def log_probs(self) -> list[float]:
        """The best answer's, the end token's included."""
        return self.hypotheses[0].log_probs

    @property
    def score(self) -> float:
        """The best answer's."""
        return self.hypotheses[0].score


@dataclass(frozen=True, slots=True)
class PairScored:
    """Terminal, of a pair.

    Attributes:
        log_probs: Of each token behind the prompt, the end token's last; finite.
        alignment: float32 [len(log_probs), source]; rows add up to 1.
    """

    request_id: int
    log_probs: list[float]
    alignment: NDArray[np.float32] = field(compare=False)
    times: Times = field(compare=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal: the engine could not compute the request, or (``engine_stopped``) is there no more."""

    request_id: int
    message: str
    engine_stopped: bool = False


Terminal = Finished | PairScored | Failed
Event = TokensChosen | Terminal
"""Every request, and every pair, gets exactly one terminal event, and nothing after it."""
