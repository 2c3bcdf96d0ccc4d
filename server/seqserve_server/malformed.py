"""Bytes that are no message: the caller's fault, said as such. By itself, gRPC answers UNKNOWN and our class names."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from seqserve_server.calls import Context, guarded
from seqserve_server.errors import InvalidRequest

_MALFORMED = object()


class MalformedInterceptor(grpc.aio.ServerInterceptor):
    """For all methods that take one request."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Read requests in such a way that one that cannot be read gets to a handler."""
        found = await continuation(handler_call_details)
        handler: Any = found
        if found is None or handler.request_streaming or handler.request_deserializer is None:
            return found
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary

        def read(data: bytes) -> object:
            try:
                message: object = handler.request_deserializer(data)
            except DecodeError:
                return _MALFORMED
            return message

        async def checked(request: object, context: Context) -> object:
            if request is _MALFORMED:
                return await guarded(context, _refuse)
            return await inner(request, context)

        stream = handler.response_streaming
        make = grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(checked, read, handler.response_serializer)
        return wrapped


async def _refuse() -> None:
    raise InvalidRequest("request", "its bytes are not a message of this method")
