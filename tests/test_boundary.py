"""What no handler foresaw: every kind of handler, every style, and no word of it on the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from refusals import refusal
from registered import call_of_any_kind
from seqserve_server.boundary import BoundaryInterceptor
from seqserve_server.errors import EngineStopped

SECRET = "SECRET at /home/somebody/file.py"


async def plain(request: Any, context: Any) -> bytes:
    return bytes(request)


async def broken(request: Any, context: Any) -> bytes:
    raise RuntimeError(SECRET)


async def ours(request: Any, context: Any) -> bytes:
    raise EngineStopped


async def aborting(request: Any, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.ABORTED, "its own words")
    raise AssertionError


async def written(request: Any, context: Any) -> None:
    await context.write(b"a")
    raise RuntimeError(SECRET)


async def yielded(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"a"
    raise RuntimeError(SECRET)


async def summed(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([part async for part in requests])


async def echoed(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for part in requests:
        yield part


def read(message: bytes) -> bytes:
    """A parser that knows no message but small ones."""
    from google.protobuf.message import DecodeError

    if message == b"unreadable":
        raise DecodeError(SECRET)
    if message == b"odd":
        raise ValueError(SECRET)
    return message


HANDLERS: dict[str, Any] = {
    "/t/plain": grpc.unary_unary_rpc_method_handler(plain, read),
    "/t/broken": grpc.unary_unary_rpc_method_handler(broken, read),
    "/t/ours": grpc.unary_unary_rpc_method_handler(ours, read),
    "/t/aborting": grpc.unary_unary_rpc_method_handler(aborting, read),
    "/t/written": grpc.unary_stream_rpc_method_handler(written, read),
    "/t/yielded": grpc.unary_stream_rpc_method_handler(yielded, read),
    "/t/summed": grpc.stream_unary_rpc_method_handler(summed, read),
    "/t/echoed": grpc.stream_stream_rpc_method_handler(echoed, read),
}


class Details(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class Handlers(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return HANDLERS.get(handler_call_details.method)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[BoundaryInterceptor()])
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as connected:
            yield connected
    finally:
        await server.stop(0)


async def all_of(channel: grpc.aio.Channel, method: str, *messages: bytes) -> list[bytes]:
    return [message async for message in call_of_any_kind(channel, method, *messages)]


async def test_what_works_goes_on_working(channel: grpc.aio.Channel) -> None:
    assert await all_of(channel, "/t/plain", b"a") == [b"a"]
    assert await all_of(channel, "/t/summed", b"a", b"b") == [b"ab"]
    assert await all_of(channel, "/t/echoed", b"a", b"b") == [b"a", b"b"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await all_of(channel, "/t/nowhere", b"a")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["/t/plain", "/t/written", "/t/yielded", "/t/summed", "/t/echoed"])
async def test_a_message_that_cannot_be_read_is_an_invalid_argument(method: str, channel: grpc.aio.Channel) -> None:
    error = await refusal(all_of(channel, method, b"unreadable"))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "request")


@pytest.mark.parametrize(("method", "message"), [
    ("/t/broken", b"a"), ("/t/written", b"a"), ("/t/yielded", b"a"), ("/t/plain", b"odd"), ("/t/echoed", b"odd"),
])
async def test_an_exception_is_internal_and_says_nothing(
    method: str, message: bytes, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    error = await refusal(all_of(channel, method, message))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")
    assert f"request {error.trailing['x-request-id']} failed" in caplog.text


async def test_errors_of_our_own_and_aborts_keep_their_status(channel: grpc.aio.Channel) -> None:
    assert (await refusal(all_of(channel, "/t/ours", b"a"))).reason == "ENGINE_STOPPED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await all_of(channel, "/t/aborting", b"a")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "its own words")


async def test_a_caller_that_has_gone_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        """What is left of a call: nothing can be sent."""

        def invocation_metadata(self) -> tuple[()]:
            return ()

        def set_trailing_metadata(self, metadata: Any) -> None:
            del metadata

        async def write(self, message: bytes) -> None:
            raise grpc.aio.InternalError

        async def abort(self, *status: Any) -> None:
            raise grpc.aio.InternalError

    async def ends(method: str, message: bytes) -> None:
        async def found(details: object) -> Any:
            return HANDLERS[method]

        handler: Any = await BoundaryInterceptor().intercept_service(found, Details(method))
        with pytest.raises(asyncio.CancelledError):
            await (handler.unary_stream or handler.unary_unary)(message, Gone())

    await ends("/t/written", b"a")
    await ends("/t/ours", b"a")
    await ends("/t/plain", b"unreadable")
    assert caplog.records == []
