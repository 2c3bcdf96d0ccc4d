"""The handlers that a server registers, whatever services it has: what a test of "every method" walks over."""

from typing import Any

import grpc
import pytest
from grpc.aio._server import Server


def call_of_any_kind(channel: Any, method: str, *messages: bytes, **settings: Any) -> Any:
    """A call by name, with messages as bytes: on the wire, all four kinds of calls look like this.

    One message goes with the call. Where a call ends before a later one is written, gRPC's asyncio client may say
    INTERNAL of its own, whatever the server said.
    """
    settings = {"timeout": 60, **settings}
    if len(messages) == 1:
        return channel.unary_stream(method)(*messages, **settings)
    return channel.stream_stream(method)(iter(messages), **settings)


def registered_methods(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Filled when a server starts: its methods' full names, and their handlers before any interceptor."""
    found: dict[str, Any] = {}
    add = Server.add_generic_rpc_handlers

    def noting(self: Any, handlers: Any) -> None:
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                found.update(handler._method_handlers)  # type: ignore[attr-defined]
        add(self, handlers)

    monkeypatch.setattr(Server, "add_generic_rpc_handlers", noting)
    return found
