"""The gRPC port: how it is opened, and what one connection or message may cost."""

from collections.abc import Sequence
from typing import Any

import grpc

from seqserve_server.config import ServerConfig
from seqserve_server.errors import StartupError


def make_server(config: ServerConfig, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """A server without services or ports; the first interceptor is the outermost."""
    return grpc.aio.server(interceptors=list(interceptors), options=channel_options(config))


def channel_options(config: ServerConfig) -> list[tuple[str, Any]]:
    """Channel arguments. gRPC ignores misspelt names silently; the tests look at what each one does."""
    return [
        ("grpc.so_reuseport", 0),  # else a second server on the port starts silently and takes half the calls
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", config.max_streams),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def open_port(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Listen; the port that it became, where 0 was asked for.

    Raises:
        StartupError: the address is in use or not allowed.
    """
    try:
        return server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError:
        raise StartupError(f"--port: cannot listen on {config.host}:{config.port}: in use or not allowed") from None
