"""``grpc_server_*`` metrics under the names that Go middleware made common, and what was refused at the door."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from seqserve.v1 import seq2seq_pb2
from seqserve_server import errors
from seqserve_server.call_record import Call
from seqserve_server.histogram import Histogram
from seqserve_server.metrics import LONG

Labels: TypeAlias = tuple[str, str, str]
_LABELS = ("grpc_type", "grpc_service", "grpc_method")
# Endings of work that was begun; every other reason that an error has is one to refuse a call before anything is done.
BEGUN = {"INTERNAL", "ENGINE_FAILURE", "ENGINE_STOPPED", "DRAINING", "SLOW_READER", "DEADLINE_EXCEEDED", "STARTUP"}


@dataclass(slots=True)
class Method:
    """What is counted of one method; all codes are there from the start, so that a first error shows as a rise."""

    started: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(LONG))
    handled: dict[grpc.StatusCode, int] = field(default_factory=lambda: dict.fromkeys(grpc.StatusCode, 0))


class CallMetrics(Collector):
    """Counts calls begun and ended by code, and times them. Written by the event loop alone, read by any thread.

    Not the client library's counters: each takes a lock and looks for its labels, and a refused call has five of them.
    """

    def __init__(self, registry: CollectorRegistry, others: Sequence[ServiceDescriptor] = ()) -> None:
        """``others`` are services beside our own."""
        own = seq2seq_pb2.DESCRIPTOR.services_by_name["Seq2SeqService"]
        self._methods = {labels: Method() for labels in _methods([own, *others])}
        self._rejected = {reason: 0 for reason in _reasons(errors.ServerError) if reason not in BEGUN}
        registry.register(self)

    def begin(self, labels: Labels) -> None:
        """A call begins."""
        method = self._methods.get(labels)
        if method is None:  # of health, say. A new mapping, here and below: a scrape may be reading the old one
            method = Method()
            self._methods = {**self._methods, labels: method}
        method.started += 1

    def end(self, call: Call, labels: Labels, code: grpc.StatusCode, now: float) -> None:
        """A call that began has ended."""
        method = self._methods[labels]
        method.handled[code] += 1
        method.seconds.observe(now - call.begun)
        if call.reason:
            self._reject(call.reason, max(1, call.requests))
        for reason, count in call.refused.items():
            self._reject(reason, count)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        started = CounterMetricFamily("grpc_server_started", "Calls started.", labels=_LABELS)
        handled = CounterMetricFamily("grpc_server_handled", "Calls ended.", labels=(*_LABELS, "grpc_code"))
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "From start to end of a call.", labels=_LABELS
        )
        for labels, method in self._methods.items():
            started.add_metric(labels, method.started)
            buckets, total = method.seconds.snapshot()
            seconds.add_metric(labels, buckets, sum_value=total)
            for code, count in method.handled.items():
                handled.add_metric((*labels, go_name(code)), count)
        rejected = CounterMetricFamily(
            "seqserve_requests_rejected", "Requests refused before anything was computed; each input of a call is one.",
            labels=("reason",),
        )
        for reason, count in self._rejected.items():
            rejected.add_metric((reason,), count)
        yield from (started, handled, seconds, rejected)

    def _reject(self, reason: str, count: int) -> None:
        if reason in self._rejected:
            self._rejected[reason] += count
        elif reason not in BEGUN:
            self._rejected = {**self._rejected, reason: count}


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
