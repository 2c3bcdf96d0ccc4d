"""The innermost interceptor: what no handler foresaw leaves as a clean status too.

Left alone, gRPC answers a message that cannot be read, or an exception, with UNKNOWN and the text of the exception.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from seqserve_server.calls import Context, guarded
from seqserve_server.errors import InvalidRequest

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_UNREADABLE = "it is not a message of this method, or a text in it is not UTF-8"


class BoundaryInterceptor(grpc.aio.ServerInterceptor):
    """Reads messages itself, and runs handlers of every kind and style; all it makes are coroutines."""

    def __init__(self) -> None:
        self._bounded: dict[str, tuple[Handler, Handler]] = {}  # by method: the handler, and the one around it

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler with the boundary around it."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        known = self._bounded.get(handler_call_details.method)
        if known is not None and known[0] is handler:
            return known[1]
        read = handler.request_deserializer or (lambda message: message)
        kind = handler.request_streaming, handler.response_streaming
        inner, make = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        }[kind]

        async def bounded(given: Any, context: Context) -> object:
            try:
                request = _read_all(given, read) if handler.request_streaming else _read(given, read)
                answer = inner(request, context)
                if not hasattr(answer, "__aiter__"):
                    return await answer
                async for message in answer:
                    await context.write(message)
                return None
            except grpc.aio.AbortError:  # the handler's own status
                raise
            except Exception as error:  # noqa: BLE001
                return await guarded(context, _raising(error))  # which knows our own errors, and logs the others

        wrapped: Handler = make(bounded, None, handler.response_serializer)
        self._bounded[handler_call_details.method] = handler, wrapped
        return wrapped


def _read(message: bytes, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(message)
    except DecodeError:
        raise InvalidRequest("request", _UNREADABLE) from None


async def _read_all(messages: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _read(message, read)


def _raising(error: Exception) -> Callable[[], Awaitable[object]]:
    async def answer() -> object:
        raise error

    return answer
