"""The handlers that a server registers, whatever services it has: what a test of "every method" walks over."""

from typing import Any

import grpc
import pytest
from grpc.aio._server import Server


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
