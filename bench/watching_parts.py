"""What the record of a call, its log line and its spans cost, each alone and in this process.

    .venv/bin/python bench/watching_parts.py 2>/dev/null

The least of several repetitions, in microseconds: it is what the code takes when nobody else takes the processor.
"""

import os
import sys
import time
import timeit
from collections.abc import Callable

import grpc

from machine import facts
from seqserve_server.access_log import log_end
from seqserve_server.call_record import CURRENT, Call
from seqserve_server.calls import request_id_of
from seqserve_server.decoding.search import Hypothesis, SearchSettings
from seqserve_server.interceptor import traceparent_of
from seqserve_server.log_lines import configure
from seqserve_server.request import Finished, FinishReason, Request, Times
from seqserve_server.tracing import Tracing, make_provider
from spread import table

METADATA = [("user-agent", "grpc-python/1.81.1"), ("grpc-accept-encoding", "gzip")]
REQUEST = Request(1, (5, 6, 7), (2,), SearchSettings(1, 4))
BEST = Hypothesis([1, 2], [0.1, 0.2], 0.3, ended=True)
FINISHED = Finished(1, FinishReason.EOS, [BEST], Times(1, 1.1, 1.2, 1.3, 1.4))


def least(work: Callable[[], object], count: int = 1000, repetitions: int = 20) -> float:
    """Microseconds."""
    return 1e6 * min(timeit.repeat(work, number=count, repeat=repetitions)) / count


def recorded() -> Call:
    """A call with one request that ended."""
    call = Call("seqserve.v1.Seq2SeqService/Generate", request_id_of(METADATA), "ipv4:127.0.0.1:4000",
                time.monotonic(), traceparent_of(METADATA))
    CURRENT.set(call)
    call.offered([REQUEST])
    call.ended(FINISHED)
    return call


def traced(tracing: Tracing) -> Callable[[], None]:
    """A call with its spans; they are exported to nobody."""
    def work() -> None:
        call = recorded()
        tracing.begin(call, METADATA)
        tracing.end(call, grpc.StatusCode.OK, time.monotonic())

    return work


def logged(form: str, level: str = "info") -> float:
    """Microseconds of a line."""
    configure(level, form)
    call = recorded()
    return least(lambda: log_end(call, grpc.StatusCode.OK, time.monotonic()))


def main() -> int:
    """Print the table."""
    base = least(recorded)
    found = [
        ("its id, as ever", least(lambda: request_id_of(METADATA))), ("its record, the id included", base),
        ("access log, JSON", logged("json")), ("access log, text", logged("console")),
        ("access log on, but the level is warning", logged("json", "warning")),
        ("traces, sampled: five spans", least(traced(Tracing(make_provider({}))), 300) - base),
    ]
    os.environ["OTEL_TRACES_SAMPLER"] = "always_off"
    found.append(("traces, not sampled", least(traced(Tracing(make_provider({})))) - base))
    print(table(["of one call", "µs"], [[name, f"{value:.1f}"] for name, value in found]))
    print(f"\nMachine: {'; '.join(facts().values())}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
