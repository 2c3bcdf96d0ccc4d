"""``grpc_server_*`` metrics under the names that Go middleware made common, for every method alike."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as ClientHistogram

from seqserve.v1 import seq2seq_pb2
from seqserve_server.metrics import LONG

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts calls started and handled by code, and times them. Unknown methods never get here: no label is made up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "Calls started.", _LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended.", (*_LABELS, "grpc_code"), registry=registry)
        self._seconds = ClientHistogram(
            "grpc_server_handling_seconds", "From start to end of a call.", _LABELS, buckets=LONG, registry=registry
        )
        for kind, service, method in _own_methods():  # series that begin at 0, so that a first error shows as a rise
            self._started.labels(kind, service, method)
            self._seconds.labels(kind, service, method)
            for status in grpc.StatusCode:
                self._handled.labels(kind, service, method, _go_name(status.name))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the two kinds of handlers that this server has: unary, and one request to a stream."""
        found = await continuation(handler_call_details)
        handler: Any = found
        if found is None or handler.request_streaming:
            return found
        _, service, method = handler_call_details.method.split("/", 2)
        kind = "server_stream" if handler.response_streaming else "unary"
        labels = (kind, service, method)
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def timed(request: object, context: Context) -> object:
            self._started.labels(*labels).inc()
            begun = time.perf_counter()
            code = "OK"
            try:
                return await inner(request, context)
            except BaseException:
                code = _code_name(context)
                raise
            finally:
                self._handled.labels(*labels, code).inc()
                self._seconds.labels(*labels).observe(time.perf_counter() - begun)

        make = grpc.unary_stream_rpc_method_handler if kind == "server_stream" else grpc.unary_unary_rpc_method_handler
        wrapped: Handler = make(timed, handler.request_deserializer, handler.response_serializer)
        return wrapped


def _code_name(context: Context) -> str:
    """Code of a call that ended in an exception: an abort set one, a cancelled task did not."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return _go_name(code.name)
    by_number = {status.value[0]: status.name for status in grpc.StatusCode}
    return _go_name(by_number.get(code, "UNKNOWN") if code else "CANCELLED")


def _go_name(name: str) -> str:
    """INVALID_ARGUMENT as the dashboards made for Go servers have it: InvalidArgument, but OK and Canceled."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(name, name.title().replace("_", ""))


def _own_methods() -> list[tuple[str, str, str]]:
    service = seq2seq_pb2.DESCRIPTOR.services_by_name["Seq2SeqService"]
    return [
        ("server_stream" if method.server_streaming else "unary", service.full_name, method.name)
        for method in service.methods
    ]
