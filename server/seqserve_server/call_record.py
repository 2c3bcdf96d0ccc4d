"""What is known of one call while it runs: who asked, for what, since when, and what became of its requests.

The interceptor makes one for each call and puts it where everything that runs for the call finds it: a request passes
three layers that have nothing else to do with logs and traces.
"""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from seqserve_server.request import Finished, PairScored, Request, ScoreRequest, Terminal

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
CURRENT: ContextVar["Call | None"] = ContextVar("seqserve_call", default=None)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True)
class Call:
    """One call. Times are seconds of the monotonic clock.

    Attributes:
        method: ``package.Service/Method``.
        peer: The caller's address as gRPC writes it; empty where nothing is logged of calls.
        traceparent: What the caller sent under that name, unchecked.
        metadata: All that the caller sent with the call.
        model: The name of the model that answers; empty while none was found.
        reason: Of the error that ended it, as in ``ErrorInfo``; empty without one.
        refused: How many requests of a stream of many were refused, by the reason; the stream itself goes on.
        requests: Sources or pairs that were offered to the gate.
        input_tokens: Of these, special tokens included.
        output_tokens: Generated in best answers or scored, end tokens included.
        stages: Begin and end of queue, encode, decode and score: from the first request that entered a stage to the
            last that left it, as a call may have a thousand of them.
        span: What tracing keeps of it.
    """

    method: str
    request_id: str
    peer: str
    begun: float
    traceparent: str = ""
    metadata: Metadata = field(default=(), repr=False)  # tokens are among it
    model: str = ""
    reason: str = ""
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    span: Any = None

    def offered(self, requests: Sequence[Request | ScoreRequest]) -> None:
        """Requests come to the gate, whether it lets them in or not."""
        self.requests += len(requests)
        for request in requests:
            self.input_tokens += len(request.source if isinstance(request, Request) else request.pair.source)

    def ended(self, event: Terminal) -> None:
        """One of its requests reached its terminal event while the caller still waited."""
        if isinstance(event, Finished):
            self.output_tokens += len(event.log_probs)
            times = event.times
            last = times.ended if times.ended is not None else times.arrival
            self._passed("queue", times.arrival, last if times.admitted is None else times.admitted)
            if times.admitted is not None:
                self._passed("encode", times.admitted, last if times.encoded is None else times.encoded)
            if times.encoded is not None:
                self._passed("decode", times.encoded, last)
        elif isinstance(event, PairScored):
            self.output_tokens += 0 if "decode" in self.stages else len(event.log_probs)  # else of its own answer
            if event.times.ended is not None:
                self._passed("score", event.times.arrival, event.times.ended)

    def _passed(self, stage: str, begun: float, ended: float) -> None:
        known = self.stages.get(stage)
        self.stages[stage] = (begun, ended) if known is None else (min(known[0], begun), max(known[1], ended))

    def trace_ids(self) -> tuple[str, str, str] | None:
        """Trace id, span id and flags in lowercase hex: our own span's, or the caller's where we make none."""
        if self.span is not None:
            context = self.span.get_span_context()
            return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{int(context.trace_flags):02x}"
        found = _TRACEPARENT.fullmatch(self.traceparent) if self.traceparent else None
        return None if found is None else (found[1], found[2], found[3])
