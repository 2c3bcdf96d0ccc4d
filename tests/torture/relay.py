"""A way to a server that can be cut without a word: whatever comes is taken and goes nowhere, and nothing is closed."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: what was not sent yet is dropped


class Relay:
    """Carries bytes between its own port and another's, until it is ``cut``.

    Threads, not asyncio: a client connects again at any moment, and what an event loop had accepted but not begun to
    serve when it closed was left to the garbage collector, whose warning failed whichever test ran then.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._flowing = True
        self._sockets: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # ``close`` ends the waiting
            while True:
                self._carry(self._listening.accept()[0])

    def _carry(self, accepted: socket.socket) -> None:
        """One connection, in both directions."""
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        self._sockets.append(accepted)
        try:
            beyond = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
            return
        self._sockets.append(beyond)
        for source, sink in ((accepted, beyond), (beyond, accepted)):
            self._pumps.append(threading.Thread(target=self._pump, args=(source, sink)))
            self._pumps[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._flowing:
                    sink.sendall(data)
        if self._flowing:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """From now on nothing arrives, no end either."""
        self._flowing = False

    def close(self) -> None:
        """Reset all connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()  # no connection begins after this
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for pump in self._pumps:
            pump.join()
        for each in (self._listening, *self._sockets):
            each.close()


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """A relay to a port of this machine."""
    found = Relay(port)
    try:
        yield found
    finally:
        found.close()
