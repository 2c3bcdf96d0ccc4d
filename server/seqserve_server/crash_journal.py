"""A small mapped file that knows what is in the engine, and outlives the process, however it ends.

A page that was written to through a shared mapping belongs to the kernel: it is in the file after SIGSEGV, SIGABRT,
SIGKILL and ``os._exit`` alike, without a system call when it is written. (Not after the machine has failed; what is
read then may be anything, and is checked.) The file has a header, slots for the digests of what is in the engine now,
and records of what was there when processes ended uncleanly. Nothing else of a request is in it.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from seqserve_server.errors import StartupError
from seqserve_server.fingerprint import DIGEST_BYTES
from seqserve_server.suspects import MOST_ENDS, REFUSED_AT, Record, after_unclean_end

logger = logging.getLogger(__name__)

MAGIC, FORMAT = b"SEQSVCJ\n", 1
SLOTS, RECORDS = 8192, 4096
_HEADER = struct.Struct("<8sIII16sI")  # magic, format, slots, records, salt; then the checksum of all before
_ENDS = struct.Struct("<I")
_ENDS_AT, _SLOTS_AT = 60, 64
_RECORDS_AT = _SLOTS_AT + SLOTS * DIGEST_BYTES
_BODY = struct.Struct(f"<{DIGEST_BYTES}sII")
_RECORD_BYTES = _BODY.size + 8  # with its checksum, and padding
SIZE = _RECORDS_AT + RECORDS * _RECORD_BYTES
_FREE = bytes(DIGEST_BYTES)
_NO_ALLOCATION = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems that cannot be asked for it


class CrashJournal:
    """Of one process. ``enter``, ``leave`` and ``forget`` belong to the engine's thread.

    Attributes:
        salt: Of this file's digests.
        records: What was known when it was opened, the last unclean end included.
        left: How many digests the process before left in the engine; 0 if it ended cleanly.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        """Count what the process before left behind; the engine's slots are empty then."""
        self._map = mapped
        self.salt: bytes = _HEADER.unpack_from(mapped)[4]
        self._places, damaged = self._read_records()
        if damaged:
            logger.warning("--crash-journal: %d damaged records were forgotten", damaged)
        in_engine = self._read_slots()
        self.left = len(in_engine)
        if in_engine:
            (ends,) = _ENDS.unpack_from(mapped, _ENDS_AT)
            number = (ends + 1) & MOST_ENDS
            self._write_records(after_unclean_end(self.records, in_engine, number, RECORDS))
            self._empty_slots()  # after the records: who is killed in between counts this end again, as the same one
            _ENDS.pack_into(mapped, _ENDS_AT, number)
        self._free = list(range(SLOTS))
        self._told = False

    def enter(self, digest: bytes) -> int | None:
        """A request comes into the engine; returns its slot, or None where there is none left."""
        if not self._free:
            if not self._told:
                logger.warning("--crash-journal: over %d requests are in the engine; not all are noted", SLOTS)
                self._told = True
            return None
        slot = self._free.pop()
        self._write(_SLOTS_AT + slot * DIGEST_BYTES, digest)
        return slot

    def leave(self, slot: int) -> None:
        """It has ended."""
        self._write(_SLOTS_AT + slot * DIGEST_BYTES, _FREE)
        self._free.append(slot)

    def forget(self, digest: bytes) -> None:
        """It ran to its own end: the next process need not know of it."""
        if (place := self._places.pop(digest, None)) is not None:
            self._write(_RECORDS_AT + place * _RECORD_BYTES, bytes(_RECORD_BYTES))

    def close(self, *, clean: bool) -> None:
        """No more of it. After a clean end the next process finds nothing in the engine."""
        if clean:
            self._empty_slots()
        self._map.close()

    def _write(self, place: int, data: bytes) -> None:
        # Closed while a step still ran that did not end in time: nobody will read what it did.
        with contextlib.suppress(ValueError):
            self._map[place : place + len(data)] = data

    def _empty_slots(self) -> None:
        self._map[_SLOTS_AT:_RECORDS_AT] = bytes(_RECORDS_AT - _SLOTS_AT)

    def _read_slots(self) -> list[bytes]:
        data = self._map[_SLOTS_AT:_RECORDS_AT]
        found = (data[place : place + DIGEST_BYTES] for place in range(0, len(data), DIGEST_BYTES))
        return list(dict.fromkeys(digest for digest in found if digest != _FREE))

    def _read_records(self) -> tuple[dict[bytes, int], int]:
        """Where the record of each digest is, and how many there were that are none."""
        self.records: dict[bytes, Record] = {}
        places: dict[bytes, int] = {}
        damaged = 0
        for place in range(RECORDS):
            start = _RECORDS_AT + place * _RECORD_BYTES
            data = self._map[start : start + _RECORD_BYTES]
            if not any(data):
                continue
            digest, ends, last = _BODY.unpack_from(data)
            if data != _record(digest, Record(ends, last)) or not ends or digest in places:
                self._map[start : start + _RECORD_BYTES] = bytes(_RECORD_BYTES)
                damaged += 1
                continue
            self.records[digest], places[digest] = Record(ends, last), place
        return places, damaged

    def _write_records(self, records: dict[bytes, Record]) -> None:
        """Each stays where it is, so that one that is killed meanwhile leaves none twice."""
        for digest in self._places.keys() - records.keys():
            self.forget(digest)
        free = iter(sorted(set(range(RECORDS)) - set(self._places.values())))
        for digest, record in records.items():
            if digest not in self._places:
                self._places[digest] = next(free)
            self._write(_RECORDS_AT + self._places[digest] * _RECORD_BYTES, _record(digest, record))
        self.records = records


@contextlib.contextmanager
def open_journal(path: Path) -> Iterator[CrashJournal]:
    """Open or make one, for this process alone. Without ``close`` in the block, what is in the engine stays noted.

    Raises:
        StartupError: another process has it, it is something else, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StartupError(f"--crash-journal: {path} is no regular file")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _prepare(descriptor, path)
            mapped = mmap.mmap(descriptor, SIZE)
        except BlockingIOError:
            raise StartupError(f"--crash-journal: another server uses {path}; each needs one of its own") from None
        except OSError as error:
            raise StartupError(f"--crash-journal: {path}: {error.strerror}") from None
        stack.callback(mapped.close)
        journal = CrashJournal(mapped)
        _tell(journal)
        yield journal


def _tell(journal: CrashJournal) -> None:
    refused = [digest.hex() for digest, record in journal.records.items() if record.ends >= REFUSED_AT]
    if journal.left:
        logger.warning(
            "the process before ended with %d requests in its engine; %d are suspects and run one at a time",
            journal.left, len(journal.records) - len(refused),
        )
    if refused:
        logger.warning("%d requests are refused, the last of them %s", len(refused), refused[-1])


def _prepare(descriptor: int, path: Path) -> None:
    """Make it a journal of this size, with every block there: one that is missing when it is written to is a SIGBUS."""
    data = os.pread(descriptor, SIZE + 1, 0)
    if data and not data.startswith(MAGIC[: len(data)]):
        raise StartupError(f"--crash-journal: {path} is no crash journal, and is left as it is")
    if len(data) != SIZE or not _is_header(data):
        if data:
            logger.warning("--crash-journal: %s is damaged or of another release; it begins anew", path)
        os.ftruncate(descriptor, 0)
        _write_whole(descriptor, _empty())
    elif hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise


def _write_whole(descriptor: int, data: bytes) -> None:
    place = 0
    while place < len(data):
        place += os.pwrite(descriptor, data[place:], place)


def _empty() -> bytes:
    return _header(secrets.token_bytes(16)).ljust(SIZE, b"\0")


def _header(salt: bytes) -> bytes:
    body = _HEADER.pack(MAGIC, FORMAT, SLOTS, RECORDS, salt, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def _is_header(data: bytes) -> bool:
    found = data[: _HEADER.size]
    return found == _header(_HEADER.unpack(found)[4])


def _record(digest: bytes, record: Record) -> bytes:
    body = _BODY.pack(digest, *record)
    return (body + zlib.crc32(body).to_bytes(4, "little")).ljust(_RECORD_BYTES, b"\0")
