"""What a SentencePiece model file must look like before its library may read it.

A protocol buffer of pieces, trainer settings and normaliser settings is walked here first, with the standard library
alone, for two reasons. A file cut between two pieces loads without a word, and a vocabulary half as long is served; and
releases of the library before 0.2.3 take the process down (a segmentation fault, no exception) on a piece of 60 KB.
"""

from collections.abc import Iterator
from pathlib import Path

from seqserve.bundle import BundleError

# Trained pieces have at most 16 characters unless told otherwise; sentencepiece 0.2.3 refuses some length above this.
MAX_PIECE_BYTES = 4096
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3  # fields of ModelProto
_PIECE = 1  # field of ModelProto.SentencePiece
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_model_file(path: Path, shown: str) -> bytes:
    """The file's bytes, once they were found to be a SentencePiece model with pieces of sane lengths.

    Raises:
        BundleError: one line that begins with ``shown``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{shown}: cannot be read: {error.strerror}") from None
    seen: set[int] = set()
    try:
        for field, start, end in _fields(data, 0, len(data)):
            seen.add(field)
            if field == _PIECES:
                _check_piece(data, start, end)
    except _OverlongPieceError as error:
        raise BundleError(f"{shown}: {error}") from None
    except ValueError as error:
        raise BundleError(f"{shown}: not a SentencePiece model, or a truncated one: {error}") from None
    # Cut exactly between two fields, the file still parses, and the library would serve what is left of it.
    for field, name in ((_PIECES, "pieces"), (_TRAINER, "trainer settings"), (_NORMALISER, "normaliser settings")):
        if field not in seen:
            raise BundleError(f"{shown}: not a SentencePiece model, or a truncated one: it has no {name}")
    return data


def count_pieces(path: Path, shown: str) -> int:
    """How many pieces a model file has, the special ones included.

    Raises:
        BundleError: as ``read_model_file``.
    """
    data = read_model_file(path, shown)
    return sum(field == _PIECES for field, _, _ in _fields(data, 0, len(data)))


class _OverlongPieceError(ValueError):
    """Told apart from damage: the file is well-formed."""


def _check_piece(data: bytes, start: int, end: int) -> None:
    for field, first, last in _fields(data, start, end):
        if field == _PIECE and last - first > MAX_PIECE_BYTES:
            raise _OverlongPieceError(f"a piece has {last - first} bytes, over the limit of {MAX_PIECE_BYTES}")


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
