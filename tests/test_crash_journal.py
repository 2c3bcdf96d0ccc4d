"""The file: what it keeps when a process ends in whatever way, and what it makes of files that are not its own."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqserve_server import crash_journal
from seqserve_server.crash_journal import RECORDS, SIZE, SLOTS, open_journal
from seqserve_server.errors import StartupError
from seqserve_server.suspects import Record

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
ENDS = {
    "SIGKILL": "os.kill(os.getpid(), 9)", "SIGSEGV": "os.kill(os.getpid(), 11)", "SIGABRT": "os.abort()",
    "os._exit": "os._exit(1)", "an exception": "raise SystemExit(3)",
}


def leave_behind(path: Path, *digests: bytes) -> None:
    """As a process does that ends uncleanly."""
    with open_journal(path) as journal:
        for digest in digests:
            journal.enter(digest)


def records(path: Path) -> dict[bytes, int]:
    with open_journal(path) as journal:
        found = {digest: record.ends for digest, record in journal.records.items()}
        journal.close(clean=True)
    return found


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_is_in_the_engine_is_known_however_a_process_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "journal"
    code = f"""
import os, sys, resource
from pathlib import Path
from seqserve_server.crash_journal import open_journal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open_journal(Path(sys.argv[1])) as journal:
    gone = journal.enter(bytes([1]) * 16)
    journal.enter(bytes([2]) * 16)
    journal.leave(gone)
    {end}
"""
    for count in (1, 2):
        child = subprocess.run(
            [sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False, stderr=subprocess.DEVNULL,
        )
        assert child.returncode in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT, 1, 3)
        assert records(path) == {B: count}


def test_after_a_clean_end_nothing_was_in_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open_journal(path) as journal:
        journal.enter(A)
        journal.close(clean=True)
    assert records(path) == {}
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert path.stat().st_size == SIZE


def test_who_is_forgotten_is_unknown_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    leave_behind(path, A, B, B)
    with open_journal(path) as journal:
        assert (journal.left, journal.records) == (2, {A: Record(1, 1), B: Record(1, 1)})
        journal.forget(A)
        journal.forget(C)
        journal.enter(B)
    assert records(path) == {B: 2}
    assert records(path) == {B: 2}, "a start alone changes something"


def test_a_process_that_is_killed_while_it_counts_does_not_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    leave_behind(path, A, B)

    def killed(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(crash_journal.CrashJournal, "_empty_slots", killed)
        with pytest.raises(KeyboardInterrupt), open_journal(path):
            pass
    assert records(path) == {A: 1, B: 1}


def test_the_salt_is_the_files_own_and_stays(tmp_path: Path) -> None:
    def salt(name: str) -> bytes:
        with open_journal(tmp_path / name) as journal:
            return journal.salt

    assert salt("one") == salt("one") != salt("two")
    assert any(salt("one"))


def test_two_servers_cannot_have_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open_journal(path), pytest.raises(StartupError, match="another server uses"), open_journal(path):
        pass
    assert records(path) == {}


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"{}" * SIZE, b"\0" * SIZE])
def test_a_file_of_somebody_elses_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="no crash journal"), open_journal(path):
        pass
    assert path.read_bytes() == content


def test_what_is_no_file_or_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "directory", tmp_path / "fifo", tmp_path / "none" / "journal", Path("/dev/full")):
        with pytest.raises(StartupError, match="--crash-journal: ") as raised, open_journal(path):
            pass
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["short", "long", "header"])
def test_a_damaged_one_begins_anew_and_says_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    leave_behind(path, A)
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[20] ^= 1
    path.write_bytes({"short": data[:100], "long": data + b"\0", "header": data}[damage])
    assert records(path) == {}
    assert "begins anew" in caplog.text
    assert path.stat().st_size == SIZE


def test_no_damage_is_a_crash(tmp_path: Path) -> None:
    path, rng = tmp_path / "journal", random.Random(5)
    for _ in range(60):
        leave_behind(path, A, B, C)
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 50, 5000))):
            data[rng.randrange(8, SIZE)] = rng.randrange(256)
        path.write_bytes(data)
        leave_behind(path, A)
        records(path)


def test_damaged_records_are_forgotten_and_the_others_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal"
    leave_behind(path, A, B)
    records(path)
    data = bytearray(path.read_bytes())
    data[data.index(A) + 16] = 9  # its count
    path.write_bytes(data)
    assert records(path) == {B: 1}
    assert "1 damaged records" in caplog.text


def test_it_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal"
    leave_behind(path, A)
    leave_behind(path, A)
    leave_behind(path, *(number.to_bytes(16, "little") for number in range(1 << 20, (1 << 20) + SLOTS + 2)))
    assert caplog.text.count("not all are noted") == 1
    found = records(path)
    assert len(found) == RECORDS
    assert found[A] == 2, "one that is refused was forgotten before one that is a suspect"
    assert path.stat().st_size == SIZE


def test_what_is_written_after_it_was_closed_is_for_nobody(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal") as journal:
        slot = journal.enter(A)
        journal.close(clean=True)
        assert slot is not None
        journal.leave(slot)
        journal.enter(B)
    assert records(tmp_path / "journal") == {}
