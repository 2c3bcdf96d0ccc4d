"""What a SentencePiece model file must look like before its library may read it.

A protocol buffer of pieces, trainer settings and normaliser settings is walked here first, with the standard library
alone, for two reasons. A file cut between two pieces loads without a word, and a vocabulary half as long is served; and
releases of the library before 0.2.3 take the process down (a segmentation fault, no exception) on a piece of 60 KB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqserve.bundle import BundleError
from seqserve.whole_files import read_bytes

# Trained pieces have at most 16 characters unless told otherwise; sentencepiece 0.2.3 refuses some length above this.
MAX_PIECE_BYTES = 4096
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3  # fields of ModelProto
_SELF_TEST = 4
_PIECE, _TYPE = 1, 3  # fields of ModelProto.SentencePiece
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5  # fields of NormalizerSpec
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # ModelProto.SentencePiece.Type
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of a model. ``kind`` is one of the constants above."""

    text: str
    kind: int


def read_model_file(path: Path, shown: str) -> bytes:
    """The file's bytes, once they were found to be a SentencePiece model with pieces of sane lengths.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    return read_model(path, shown)[0]


def read_model(path: Path, shown: str) -> tuple[bytes, tuple[Piece, ...]]:
    """The file's bytes, checked as ``read_model_file`` does, and its pieces in the order of their numbers."""
    data = read_bytes(path, shown)
    seen: set[int] = set()
    pieces: list[Piece] = []
    try:
        for field, start, end in _fields(data, 0, len(data)):
            seen.add(field)
            if field == _PIECES:
                pieces.append(_piece(data, start, end))
    except _OverlongPieceError as error:
        raise BundleError(f"{shown}: {error}") from None
    except ValueError as error:
        raise BundleError(f"{shown}: not a SentencePiece model, or a truncated one: {error}") from None
    # Cut exactly between two fields, the file still parses, and the library would serve what is left of it.
    for field, name in ((_PIECES, "pieces"), (_TRAINER, "trainer settings"), (_NORMALISER, "normaliser settings")):
        if field not in seen:
            raise BundleError(f"{shown}: not a SentencePiece model, or a truncated one: it has no {name}")
    return data, tuple(pieces)


def without_normaliser(data: bytes) -> bytes:
    """The same model for texts that are normalised already: no character map, no space added, removed or replaced.

    Of a field that is there twice, readers take the last: the switches are appended. A self-test, which would now
    fail, is left out.
    """
    kept, begin = [], 0
    for field, _, end in _fields(data, 0, len(data)):
        if field != _SELF_TEST:
            kept.append(data[begin:end])
        begin = end
    switches = bytes([_CHARACTER_MAP << 3 | _BYTES, 0])
    for switch in (_DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES):
        switches += bytes([switch << 3 | _VARINT, 0])
    return b"".join([*kept, bytes([_NORMALISER << 3 | _BYTES, len(switches)]), switches])


def count_pieces(path: Path, shown: str) -> int:
    """How many pieces a model file has, the special ones included.

    Raises:
        BundleError: as ``read_model_file``.
    """
    data = read_model_file(path, shown)
    return sum(field == _PIECES for field, _, _ in _fields(data, 0, len(data)))


class _OverlongPieceError(ValueError):
    """Told apart from damage: the file is well-formed."""


def _piece(data: bytes, start: int, end: int) -> Piece:
    text, kind = "", NORMAL
    for field, first, last in _fields(data, start, end):
        if field == _PIECE:
            if last - first > MAX_PIECE_BYTES:
                raise _OverlongPieceError(f"a piece has {last - first} bytes, over the limit of {MAX_PIECE_BYTES}")
            text = data[first:last].decode("utf-8")
        elif field == _TYPE and last > first:
            kind = data[first]
    return Piece(text, kind)


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the content of every field between two offsets."""
    while position < end:
        begin = position
        key, position = _varint(data, position, end)
        kind = key & 7
        if kind == _BYTES:
            size, position = _varint(data, position, end)
            last = position + size
        elif kind == _VARINT:
            last = _varint(data, position, end)[1]
        elif kind in (_FIXED32, _FIXED64):
            last = position + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"an unknown kind of field at byte {begin}")
        if last > end:
            raise ValueError(f"the field at byte {begin} goes on past the end")
        yield key >> 3, position, last
        position = last


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number is too long at byte {position}")
