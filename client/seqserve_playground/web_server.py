"""Listens for browsers of this machine, until it is told to stop."""

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from seqserve_client import AsyncClient
from seqserve_playground.application import Handlers, application
from seqserve_playground.live_metrics import LiveMetrics

GRACE_SECONDS = 2  # for answers in flight, after the signal


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ValueError: not a loopback address: the page has no password, and shows what others type.
        OSError: the port is taken, or not for us.
    """
    name = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        raise ValueError(f"{host!r} is no address of this machine's loopback: 127.0.0.1, ::1 or localhost") from None
    if not address.is_loopback:
        raise ValueError(
            f"the playground has no password and listens on loopback only, not on {host}; "
            "to look at it from elsewhere: ssh -L PORT:127.0.0.1:PORT"
        )
    listening = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((name, port))
    except BaseException:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class PageServer(uvicorn.Server):
    """Says when it is ready, which uvicorn only logs, and ends what is open instead of waiting for it."""

    def __init__(self, handlers: Handlers, ready: Callable[[], object]) -> None:
        super().__init__(uvicorn.Config(
            application(handlers), lifespan="off", log_config=None, log_level=logging.WARNING, access_log=False,
            server_header=False, proxy_headers=False, ws="none", timeout_graceful_shutdown=GRACE_SECONDS,
        ))
        self._handlers, self._ready = handlers, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._handlers.end()
        await super().shutdown(sockets)


async def serve(
    client: AsyncClient, target: str, metrics: LiveMetrics, listening: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT, which is a KeyboardInterrupt here as elsewhere, or SIGTERM, which is the usual end."""
    # uvicorn takes the signal, ends, and raises it once more for whoever had it before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        await PageServer(Handlers(client, target, metrics), ready).serve([listening])
    finally:
        signal.signal(signal.SIGTERM, before)
