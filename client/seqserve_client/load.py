"""What a load test sends and when, fixed before the first request.

Pure; this is what client processes are told.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from seqserve_client.arrivals import Share, arrival_offsets
from seqserve_client.load_inputs import Inputs, Source
from seqserve_client.load_mix import UNARY, Kind, kind_at
from seqserve_client.load_trace import TraceEntry
from seqserve_client.options import GenerationOptions


@dataclass(frozen=True, slots=True)
class Load:
    """How to load the server.

    Attributes:
        rate: Mean requests per second of an open loop (infinite sends all at once), or None for a closed loop or a
            trace.
        concurrency: Most requests in flight: in a closed loop the number of workers; in an open loop a cap, behind
            which requests wait with their intended time unchanged; None for no cap.
        requests: How many to send, or None; those of the ramp come on top.
        duration: Seconds after the ramp during which to send, or None; what is in flight then is waited for.
        warmup: Requests of each kind that each client process sends first, one after the other, and that do not count.
        seed: Of the times and of the kinds.
        burstiness: See ``arrival_offsets``.
        ramp: Seconds in which the rate grows from 0, or in which the workers of a closed loop begin; requests that
            are due before its end are sent and do not count.
        kinds: Kinds of requests, drawn by weight.
        trace: Recorded requests to be sent again, or None.
    """

    rate: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    duration: float | None = None
    warmup: int = 0
    seed: int = 0
    burstiness: float = 1.0
    ramp: float = 0.0
    kinds: tuple[Kind, ...] = (UNARY,)
    trace: tuple[TraceEntry, ...] | None = None

    def __post_init__(self) -> None:
        if self.trace is not None:
            if self.rate is not None or self.ramp:
                raise ValueError("a trace has a rate of its own")
            return
        if self.rate is None and self.concurrency is None:
            raise ValueError("a load needs a rate (open loop), a concurrency (closed loop) or a trace")
        if self.requests is None and self.duration is None:
            raise ValueError("a load needs a number of requests or a duration")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate must be above 0, not {self.rate}")
        if self.rate is not None and math.isinf(self.rate) and (self.requests is None or self.ramp):
            raise ValueError("an infinite rate needs a number of requests, and has no ramp")
        if not 0 < self.burstiness < math.inf:
            raise ValueError(f"the burstiness must be above 0, not {self.burstiness}")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent at times that do not depend on the server."""
        return self.rate is not None or self.trace is not None

    @property
    def warm_ups(self) -> int:
        """Uncounted requests of each client process."""
        return self.warmup * len(self.kinds)

    @property
    def streams(self) -> bool:
        """Whether any request is streamed."""
        return any(kind.stream for kind in self.kinds)

    def arrivals(self) -> Iterator[float]:
        """Intended send times of an open loop, in seconds after the start."""
        if self.trace is not None:
            offsets = (entry.offset for entry in self.trace)
            end = math.inf if self.duration is None else self.duration
            return itertools.islice(itertools.takewhile(lambda offset: offset < end, offsets), self.requests)
        if self.rate is None:
            raise ValueError("a closed loop has no schedule")
        return arrival_offsets(
            self.seed, self.rate, self.requests, self.duration, burstiness=self.burstiness, ramp=self.ramp
        )

    def worker_begins(self, share: Share) -> list[float]:
        """When each worker of this share of a closed loop begins: over all shares at equal distances along the ramp."""
        workers = self.concurrency or 0
        return [self.ramp * place / workers for place in range(share.index, workers, share.count)]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent."""

    source: Source
    kind: Kind
    options: GenerationOptions


@dataclass(frozen=True, slots=True)
class Work:
    """What requests hold.

    Attributes:
        options: Of every request; its kind or its line of a trace may add to them.
        model: Name of the model, or None for a server that has one.
    """

    inputs: Inputs
    options: GenerationOptions = field(default_factory=GenerationOptions)
    model: str | None = None

    def request(self, load: Load, number: int) -> Request:
        """The request of a number, which does not depend on which client process sends it."""
        kind = kind_at(load.seed, load.kinds, number)
        entry = load.trace[number] if load.trace is not None else TraceEntry(0.0)
        return self._of(kind, self.inputs.at(number) if entry.source is None else entry.source, entry.max_new_tokens)

    def warm_up(self, load: Load, share: Share, number: int) -> Request:
        """A request that does not count, of each kind in turn.

        Its input is none of the first measured ones, which the server could otherwise know already.
        """
        kind = load.kinds[number % len(load.kinds)]
        place = share.index * load.warm_ups + number
        if load.trace is None or load.trace[0].source is None:
            return self._of(kind, self.inputs.at(-1 - place), None)
        last = load.trace[-1 - place % len(load.trace)]
        return self._of(kind, self.inputs.at(-1 - place) if last.source is None else last.source, last.max_new_tokens)

    def _of(self, kind: Kind, source: Source, max_new_tokens: int | None) -> Request:
        options = self.options.copy()
        if kind.beam_size is not None:
            options["beam_size"] = kind.beam_size
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        return Request(source, kind, options)
