"""Around every handler: the record of its call, and what metrics, traces and the log make of it."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from seqserve_server.access_log import log_end
from seqserve_server.call_metrics import CallMetrics, Labels
from seqserve_server.call_record import CURRENT, Call, Metadata
from seqserve_server.calls import CODES, request_id_of
from seqserve_server.refusals import Unread, kind_of
from seqserve_server.tracing import Tracing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Function: TypeAlias = Callable[[Any, Context], Awaitable[object]]
# Probes come every few seconds from every kubelet: in traces and logs they would bury the rest.
UNWATCHED = ("grpc.health.", "grpc.reflection.")
# As gRPC gave it with the call, to the interceptors of its task: the handler's context would make it anew.
_METADATA: ContextVar[Metadata] = ContextVar("seqserve_metadata")
# By whether requests and answers are streams.
_KINDS: dict[tuple[bool, bool], tuple[str, str, Any]] = {
    (False, False): ("unary", "unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", "unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", "stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", "stream_stream", grpc.stream_stream_rpc_method_handler),
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The outermost one. Unknown methods never get here: no label is made up."""

    def __init__(self, metrics: CallMetrics, tracing: Tracing | None = None, *, access_log: bool = False) -> None:
        self._metrics, self._tracing, self._access_log = metrics, tracing, access_log
        # By method and whether it refuses: what was found, and what became of it. A refused call costs little else than
        # this wrapping would.
        self._wrapped: dict[tuple[str, bool], tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap coroutines. A generator, as the reflection service is one, is left as it is."""
        _METADATA.set(handler_call_details.invocation_metadata or ())
        found = await continuation(handler_call_details)
        handler: Any = found
        if found is None:
            return None
        key = handler_call_details.method, isinstance(found, Unread)
        known = self._wrapped.get(key)
        if known is not None and known[0] is found:
            return known[1]
        kind, _, _ = _KINDS[kind_of(handler)]
        _, attribute, make = _KINDS[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, attribute)
        if not inspect.iscoroutinefunction(inner):
            return found
        method = handler_call_details.method[1:]
        service, _, name = method.partition("/")
        function = self._around(inner, method, (kind, service, name))
        wrapped: Handler = make(function, handler.request_deserializer, handler.response_serializer)
        self._wrapped[key] = found, wrapped  # known methods only, so it does not grow
        return wrapped

    def _around(self, inner: Function, method: str, labels: Labels) -> Function:
        watched = not method.startswith(UNWATCHED)
        tracing, logged = self._tracing if watched else None, self._access_log and watched

        async def around(request: Any, context: Context) -> object:
            metadata = _METADATA.get()
            peer = context.peer() if logged else ""  # gRPC makes it anew each time
            call = Call(method, request_id_of(metadata), peer, time.monotonic(), traceparent_of(metadata), metadata)
            CURRENT.set(call)  # of this call's task, which ends with it
            self._metrics.begin(labels)
            if tracing is not None:
                tracing.begin(call, metadata)
            code = grpc.StatusCode.OK
            try:
                return await inner(request, context)
            except BaseException as error:
                code = _code_of(context, error)
                raise
            finally:
                now = time.monotonic()
                self._metrics.end(call, labels, code, now)
                if tracing is not None:
                    tracing.end(call, code, now)
                if logged:
                    log_end(call, code, now)

        return around


def traceparent_of(metadata: Any) -> str:
    """W3C's trace context as the caller sent it; empty without."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            return value
    return ""


def _code_of(context: Context, error: BaseException) -> grpc.StatusCode:
    """Code of a call that ended in an exception: an abort set one, a cancelled task did not."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    if code:
        return CODES.get(code, grpc.StatusCode.UNKNOWN)
    if not isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.UNKNOWN
    remaining = context.time_remaining()
    # The runtime cancels for both; the caller sees the one or the other.
    over = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
