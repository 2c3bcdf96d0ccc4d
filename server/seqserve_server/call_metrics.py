"""``grpc_server_*`` metrics under the names that Go middleware made common, and what was refused at the door."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as ClientHistogram

from seqserve.v1 import seq2seq_pb2
from seqserve_server import errors
from seqserve_server.call_record import Call
from seqserve_server.metrics import LONG

Labels: TypeAlias = tuple[str, str, str]
_LABELS = ("grpc_type", "grpc_service", "grpc_method")
# Endings of work that was begun; every other reason that an error has is one to refuse a call before anything is done.
BEGUN = {"INTERNAL", "ENGINE_FAILURE", "ENGINE_STOPPED", "DRAINING", "SLOW_READER", "DEADLINE_EXCEEDED", "STARTUP"}


class CallMetrics:
    """Counts calls begun and ended by code, and times them; belongs to the event loop."""

    def __init__(self, registry: CollectorRegistry, others: Sequence[ServiceDescriptor] = ()) -> None:
        """``others`` are services beside our own."""
        self._started = Counter("grpc_server_started", "Calls started.", _LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended.", (*_LABELS, "grpc_code"), registry=registry)
        self._seconds = ClientHistogram(
            "grpc_server_handling_seconds", "From start to end of a call.", _LABELS, buckets=LONG, registry=registry
        )
        self._rejected = Counter(
            "seqserve_requests_rejected", "Requests refused before anything was computed; each input of a call is one.",
            ("reason",), registry=registry,
        )
        self._series: dict[Labels, tuple[Counter, ClientHistogram]] = {}
        self._ends: dict[tuple[Labels, grpc.StatusCode], Counter] = {}  # looked up at every call, made at its first
        own = seq2seq_pb2.DESCRIPTOR.services_by_name["Seq2SeqService"]
        for labels in _methods([own, *others]):  # series that begin at 0, so that a first error shows as a rise
            self._started.labels(*labels)
            self._seconds.labels(*labels)
            for status in grpc.StatusCode:
                self._handled.labels(*labels, go_name(status))
        for reason in _reasons(errors.ServerError):
            if reason not in BEGUN:
                self._rejected.labels(reason)

    def begin(self, labels: Labels) -> None:
        """A call begins."""
        self._of(labels)[0].inc()

    def end(self, call: Call, labels: Labels, code: grpc.StatusCode, now: float) -> None:
        """A call has ended."""
        ended = self._ends.get((labels, code))
        if ended is None:
            ended = self._ends[labels, code] = self._handled.labels(*labels, go_name(code))
        ended.inc()
        self._of(labels)[1].observe(now - call.begun)
        if call.reason and call.reason not in BEGUN:
            self._rejected.labels(call.reason).inc(max(1, call.requests))
        for reason, count in call.refused.items():
            if reason not in BEGUN:
                self._rejected.labels(reason).inc(count)

    def _of(self, labels: Labels) -> tuple[Counter, ClientHistogram]:
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = self._started.labels(*labels), self._seconds.labels(*labels)
        return found


def go_name(status: grpc.StatusCode) -> str:
    """INVALID_ARGUMENT as the dashboards made for Go servers have it: InvalidArgument, but OK and Canceled."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(status.name, status.name.title().replace("_", ""))


def _methods(services: Sequence[ServiceDescriptor]) -> list[Labels]:
    kinds = {(False, False): "unary", (False, True): "server_stream", (True, True): "bidi_stream"}
    return [
        (kinds[method.client_streaming, method.server_streaming], service.full_name, method.name)
        for service in services for method in service.methods
    ]


def _reasons(kind: type[errors.ServerError]) -> Iterable[str]:
    """Of an error and of all that are made of it."""
    yield kind.reason
    for each in kind.__subclasses__():
        yield from _reasons(each)
