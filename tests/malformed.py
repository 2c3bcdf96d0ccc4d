"""Bad requests and bad connections, made from a seed: whoever fails can be made again from its number.

``request`` gives bytes for a method, from noise over damaged messages to readable ones full of extremes. ``connection``
gives what a hostile peer writes to the port: noise, HTTP/1, TLS, and HTTP/2 with frames that are wrong in every way.
"""

import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

INTEGERS = (-(2**63), -(2**31), -5, -1, 0, 1, 2, 3, 5, 7, 28, 29, 64, 65, 4097, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1)
NUMBERS = (float("nan"), float("inf"), float("-inf"), -1e308, -11.0, -1.0, -0.0, 0.0, 5e-324, 0.5, 1.0, 2.0, 1e308)
TEXTS = ("", " ", "c d", "\u3000", "\x00", "a\u202eb", "</s>", "<s> c", "c " * 40, "ß" * 300, "\U0010ffff")
COUNTS = (0, 1, 1, 1, 2, 3, 17, 70)
_BITS = {FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31), FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
         FieldDescriptor.CPPTYPE_UINT32: (0, 2**32), FieldDescriptor.CPPTYPE_UINT64: (0, 2**64)}


def request(seed: int, kinds: Mapping[str, Descriptor]) -> tuple[str, bytes]:
    """A method's name and the bytes of one bad request to it.

    Args:
        kinds: The message that each method takes.
    """
    draw = random.Random(seed)
    method = draw.choice(sorted(kinds))
    way = draw.random()
    if way < 0.1:
        return method, draw.randbytes(draw.choice((0, 1, 2, 8, 64, 1024)))
    message = populated(draw, kinds[method]).SerializeToString()
    return method, message if way < 0.5 else _damaged(draw, message)


def populated(draw: random.Random, kind: Descriptor, depth: int = 0) -> Message:
    """A readable message: about half of its fields, with values at their limits and beyond."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if draw.random() < 0.5 or depth > 6:
            continue
        if field.is_repeated:
            several = getattr(message, field.name)
            for _ in range(draw.choice(COUNTS)):
                if field.message_type is None:
                    several.append(_value(draw, field))
                elif field.message_type.GetOptions().map_entry:
                    break  # maps are left to the damage below
                else:
                    several.add().CopyFrom(populated(draw, field.message_type, depth + 1))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(populated(draw, field.message_type, depth + 1))
        else:
            setattr(message, field.name, _value(draw, field))
    return message


def _value(draw: random.Random, field: FieldDescriptor) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = draw.choice(TEXTS) if draw.random() < 0.99 else "x" * 70_000
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return draw.choice(NUMBERS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return draw.choice((0, 1, 2, 4, 5, 77, -1))
    low, high = _BITS[kind]
    return draw.choice([number for number in INTEGERS if low <= number < high])


def _damaged(draw: random.Random, message: bytes) -> bytes:
    """One to four of: bits turned, cut, doubled, noise between, an unknown field, a length that lies, deep groups."""
    data = bytearray(message)
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(data))
        match draw.randint(0, 7):
            case 0 if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = data[: draw.randint(0, min(len(data), 4096))]
            case 3:
                data[place:place] = draw.randbytes(draw.randint(1, 16))
            case 4:
                data += _varint(draw.randrange(1, 2**29) << 3 | 2) + _varint(3) + b"\xff\xfe\xfd"
            case 5:
                data += _varint(draw.randrange(1, 40) << 3 | 2) + _varint(draw.choice((2**31, 2**40, 2**64 - 1)))
            case 6:
                data += b"\x0b" * draw.choice((3, 99, 101, 5000))
            case _:
                data += b"\x80" * draw.choice((9, 10, 11, 64)) + b"\x01"
    return bytes(data)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 1, 2, 3, 4, 5, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """An HTTP/2 frame, whose length may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind & 0xFF, flags]) + struct.pack(">I", stream & 0xFFFFFFFF) + payload


def header(name: str, value: str) -> bytes:
    """A literal header of HPACK, not indexed, no Huffman code; below 127 bytes each."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call_headers(path: str, extra: Sequence[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
              ("content-type", "application/grpc"), ("te", "trailers"), *extra)
    return b"".join(header(name, value) for name, value in fields)


def connection(seed: int, path: str = "/seqserve.v1.Seq2SeqService/Generate") -> bytes:
    """All that one hostile client writes before it leaves."""
    draw = random.Random(seed)
    way = draw.random()
    if way < 0.1:
        return draw.randbytes(draw.choice((1, 9, 24, 100, 1000)))
    if way < 0.15:
        return b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    if way < 0.2:
        return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(64)
    if way < 0.25:
        return PREFACE[: draw.randint(1, len(PREFACE) - 1)]
    parts = [PREFACE, frame(SETTINGS, 0, 0)]
    for _ in range(draw.randint(1, 8)):
        parts.append(_bad_frame(draw, path))
    return b"".join(parts)


def _bad_frame(draw: random.Random, path: str) -> bytes:
    stream = draw.choice((0, 1, 1, 2, 3, 5, 2**31 - 1, 2**31))
    return _bad_call(draw, stream, path) if draw.random() < 0.5 else _bad_control(draw, stream)


def _bad_call(draw: random.Random, stream: int, path: str) -> bytes:
    """Headers and data that belong to no good call."""
    block = call_headers(path)
    match draw.randint(0, 7):
        case 0:
            return frame(HEADERS, END_HEADERS, stream, draw.randbytes(draw.randint(1, 128)))
        case 1:
            return frame(HEADERS, END_HEADERS, stream, block) + frame(RESET, 0, stream, struct.pack(">I", 8))
        case 2:  # never ended
            return frame(HEADERS, 0, stream, block) + frame(CONTINUATION, 0, stream, header("x", "y") * 50) * 5
        case 3:
            return frame(CONTINUATION, END_HEADERS, stream, block)
        case 4:
            return frame(PUSH, END_HEADERS, stream, struct.pack(">I", 2) + block)
        case 5:  # a message that is not as long as it says, or claims to be compressed
            prefix = struct.pack(">BI", draw.choice((0, 1, 2, 255)), draw.choice((0, 5, 2**22 + 1, 2**32 - 1)))
            return frame(HEADERS, END_HEADERS, 1, block) + frame(0, END_STREAM, 1, prefix + draw.randbytes(5))
        case 6:  # headers that no call has
            odd = [("grpc-timeout", "99999999999S"), ("grpc-encoding", "zip"), ("content-type", "text/html")]
            return frame(HEADERS, END_HEADERS | END_STREAM, 1, call_headers(path, [draw.choice(odd)]))
        case _:  # data where there is no call
            return frame(0, 0, stream, draw.randbytes(32))


def _bad_control(draw: random.Random, stream: int) -> bytes:
    """Frames of the connection itself."""
    match draw.randint(0, 6):
        case 0:
            return frame(draw.randrange(256), draw.randrange(256), stream, draw.randbytes(draw.randint(0, 64)))
        case 1:  # a length that lies
            return frame(draw.randrange(10), 0, stream, b"abc", length=draw.choice((0, 1, 16_385, 2**24 - 1)))
        case 2:
            numbers = (0, 1, 2**31, 2**32 - 1)
            pairs = b"".join(struct.pack(">HI", draw.randrange(8), draw.choice(numbers)) for _ in range(3))
            return frame(SETTINGS, draw.choice((0, 1)), stream, pairs + b"x" * draw.choice((0, 0, 1)))
        case 3:
            return frame(WINDOW, 0, stream, struct.pack(">I", draw.choice((0, 1, 2**31 - 1, 2**32 - 1))))
        case 4:
            return frame(PING, 0, stream, draw.randbytes(draw.choice((0, 7, 8, 9)))) * draw.choice((1, 100))
        case 5:
            return frame(PRIORITY, 0, stream, struct.pack(">IB", stream & 0xFFFFFFFF, 255))  # depends on itself
        case _:
            return frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, draw.randrange(16)) + draw.randbytes(20))
