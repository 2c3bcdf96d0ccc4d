"""HTTP/2 by hand, for clients that no library would let anybody write."""

import socket
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; names as in this module."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", globals()[name], value) for name, value in values.items()))


def headers(path: str, authority: str = "localhost") -> bytes:
    """A header block of a gRPC call: literals without indexing and without Huffman codes."""
    pairs = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority),
             ("content-type", "application/grpc"), ("te", "trailers"))
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) > 126:
        raise ValueError("longer texts take a length of several bytes")
    return bytes([len(data)]) + data


def message(data: bytes) -> bytes:
    """A gRPC message, as it lies in DATA frames."""
    return b"\x00" + struct.pack(">I", len(data)) + data


def call(path: str, request: bytes, stream: int = 1) -> bytes:
    """All frames of a call with one request."""
    return frame(HEADERS, END_HEADERS, stream, headers(path)) + frame(DATA, END_STREAM, stream, message(request))


def connect(target: str) -> socket.socket:
    """A connection that has sent nothing."""
    host, port = target.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of what comes, until the other side closes or is silent."""
    buffer = b""
    while True:
        while len(buffer) >= 9:
            length = int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", buffer[3:9])
            yield kind, flags, stream, buffer[9 : 9 + length]
            buffer = buffer[9 + length :]
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return
        if not data:
            return
        buffer += data
