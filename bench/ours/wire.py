"""gRPC calls over a bare socket, for a generator that must cost next to nothing beside the server it loads.

A client of gRPC takes 0.3 to 0.6 ms of processor time for a call. Three times a server's peak is then a quarter of a
core that the server does not have. Frames written by hand take a tenth of that. Only what the benchmark needs is here:
unary calls of short messages, and of the answer whether it came and with which status.
"""

import socket
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
WIDEST = 2**31 - 1
FIRST_WINDOW = 65535
FIRST_KEPT = 62  # number of the header that was kept last; below are those that HTTP/2 itself names
# A server that may keep no header in a table writes every name out, so that the status can be found without a decoder.
_STATUS = b"grpc-status\x01"
_NAMES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
          "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION")


class Connection:
    """One connection and the calls on it that have not ended.

    Attributes:
        closing: Whether the server asked for a new connection.
        open: Streams without an end yet.
    """

    def __init__(self, target: str, method: str) -> None:
        host, port = target.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers, self._headers_again = _header_blocks(method, target)
        self._next, self._window, self._buffer = 1, FIRST_WINDOW, b""
        self.closing, self.open = False, set[int]()
        widened = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WIDEST)
        self.socket.sendall(
            PREFACE + _frame(SETTINGS, 0, 0, widened)
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDEST - FIRST_WINDOW))
        )

    def close(self) -> None:
        """Give up what is open."""
        self.socket.close()

    def call(self, message: bytes) -> int:
        """Send a call; returns its stream.

        Raises:
            BlockingIOError: the server takes no more bytes for now, which no load of short messages should come to.
        """
        body = b"\x00" + struct.pack(">I", len(message)) + message
        if self._window < len(body):
            raise BlockingIOError("the server's window is full")
        self._window -= len(body)
        stream = self._next
        self._next += 2
        self.open.add(stream)
        self.socket.sendall(
            _frame(HEADERS, END_HEADERS, stream, self._headers) + _frame(DATA, END_STREAM, stream, body)
        )
        self._headers = self._headers_again
        return stream

    def read(self) -> list[tuple[int, str]]:
        """What ended by what has come: streams and their status codes' names. Blocks if nothing has come.

        Raises:
            ConnectionError: the server has closed it.
        """
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        return [ended for frame in self._frames() if (ended := self._take(*frame)) is not None]

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) < end:
                break
            yield buffer[at + 3], buffer[at + 4], int.from_bytes(buffer[at + 5 : at + 9], "big"), buffer[at + 9 : end]
            at = end
        self._buffer = buffer[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> tuple[int, str] | None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.socket.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            self.closing = True
        elif kind == RST_STREAM and stream in self.open:
            self.open.remove(stream)
            return stream, "CANCELLED"
        elif kind == HEADERS and flags & END_STREAM and stream in self.open:
            self.open.remove(stream)
            return stream, _status(payload)
        return None


def _status(block: bytes) -> str:
    """Name of the code in a block of headers; a number where it is none of the usual ones."""
    at = block.find(_STATUS)
    digit = block[at + len(_STATUS) : at + len(_STATUS) + 1].decode() if at >= 0 else "2"
    return _NAMES[int(digit)]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header_blocks(method: str, authority: str) -> tuple[bytes, bytes]:
    """Of a connection's first call, and of the others: literals that the server is to keep, then their numbers.

    As clients of gRPC do it: read anew at every call, literals would cost the server more than those do.
    """
    pairs = ((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", authority),
             ("content-type", "application/grpc"), ("te", "trailers"))
    literals = b"".join(b"\x40" + _literal(name) + _literal(value) for name, value in pairs)
    newest = FIRST_KEPT | 0x80  # the last of them; the one before it has the next number
    return literals, bytes(range(newest + len(pairs) - 1, newest - 1, -1))


def _literal(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 127, "longer texts take a length of several bytes"
    return bytes([len(data)]) + data
