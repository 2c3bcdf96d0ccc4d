"""Traces by OpenTelemetry: a span for each call, its stages as children. Off unless an endpoint is configured.

The packages are an extra of their own and are imported only when they are used. Children are made when the call is
over, from the times that its requests kept: no span is open while a step runs, and none is made for a token.
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc

from seqserve import __version__
from seqserve_server.call_record import Call, Metadata
from seqserve_server.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

FLAG = "--otlp-endpoint"
CLOSE_SECONDS = 5.0  # of waiting for a collector that may be gone; what it has not taken by then is lost
# Of a server's span: what the caller did wrong is no error of the server's.
_ERRORS = {
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
}


class Tracing:
    """Makes the spans of calls; belongs to the event loop."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace

        self._provider, self._extract, self._trace = provider, propagate.extract, trace
        self._tracer: Tracer = provider.get_tracer("seqserve", __version__)

    def begin(self, call: Call, metadata: Metadata) -> None:
        """Start the span of a call, within the caller's trace where its metadata name one."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        call.span = self._tracer.start_span(
            call.method, self._extract(carrier), self._trace.SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": call.method, "seqserve.request_id": call.request_id},
            start_time=_wall_clock(call.begun),
        )

    def end(self, call: Call, code: grpc.StatusCode, now: float) -> None:
        """End it, with its stages."""
        span, trace = call.span, self._trace
        if not span.is_recording():
            return
        inside = trace.set_span_in_context(span)
        for name, (begun, ended) in _stages(call):
            child = self._tracer.start_span(name, inside, start_time=_wall_clock(begun))
            child.end(_wall_clock(ended))
        attributes: dict[str, Any] = {"rpc.response.status_code": code.name}
        if call.model:
            attributes |= {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": call.model}
        if call.requests:
            attributes |= {
                "seqserve.requests": call.requests, "gen_ai.usage.input_tokens": call.input_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
            }
        if code is not grpc.StatusCode.OK:
            attributes["error.type"] = call.reason or code.name
        span.set_attributes(attributes)
        if code in _ERRORS:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_wall_clock(now))

    def close(self) -> None:
        """Send what is left; at most ``CLOSE_SECONDS``. To be called from a thread that may wait."""
        closing = threading.Thread(target=self._provider.shutdown, name="otlp-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def open_tracing(endpoint: str, environment: Mapping[str, str] | None = None) -> Tracing | None:
    """Tracing as configured, or None.

    Args:
        endpoint: Of an OTLP collector (gRPC), such as ``http://collector:4317``; empty for ``OTEL_*`` alone.

    Raises:
        StartupError: it is configured but cannot be had.
    """
    environment = os.environ if environment is None else environment
    named = endpoint or _first(environment, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if not named or exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter != "otlp":
        raise StartupError(f"OTEL_TRACES_EXPORTER: {exporter!r} is neither otlp nor none")
    protocol = _first(environment, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    if protocol != "grpc":
        raise StartupError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r}: only grpc is supported; its usual port is 4317")
    if not named.startswith(("http://", "https://")):
        raise StartupError(
            f"{FLAG if endpoint else 'OTEL_EXPORTER_OTLP_ENDPOINT'}: {named!r} begins with neither http:// nor https://"
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise StartupError(
            f"{FLAG}: traces need packages that are not installed ({error.name}): pip install 'seqserve[otel]'"
        ) from None
    provider = make_provider(environment)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint or None)))
    return Tracing(provider)


def make_provider(environment: Mapping[str, str]) -> "TracerProvider":
    """Without an exporter yet. Sampler, limits and resource follow ``OTEL_*``; "seqserve" unless it is named there."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    attributes = {"service.version": __version__}
    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named:  # what is given here would win over the variables
        attributes["service.name"] = "seqserve"
    return TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)


def _stages(call: Call) -> list[tuple[str, tuple[float, float]]]:
    """What came before the queue is reading options and turning text into ids."""
    if not call.stages:
        return []
    arrival = min(begun for begun, _ in call.stages.values())
    return [("tokenize", (call.begun, arrival)), *call.stages.items()]


def _wall_clock(moment: float) -> int:
    """Nanoseconds since 1970 of a moment of the monotonic clock."""
    return time.time_ns() - int((time.monotonic() - moment) * 1e9)


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := environment.get(name, "").strip())), "")
