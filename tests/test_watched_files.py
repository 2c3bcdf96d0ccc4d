"""Files that are read again when they change, on a clock of our own."""

import logging
import os
from pathlib import Path

import pytest

from seqserve_server.errors import StartupError
from seqserve_server.watched_files import MAX_FILE_BYTES, RECHECK_SECONDS, WatchedFiles, read_bytes


class Reading:
    """Reads one number from a file, and counts."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.now = path, 0, 100.0

    def __call__(self) -> int:
        self.count += 1
        try:
            return int(read_bytes(self.path, "--flag"))
        except ValueError:
            raise StartupError("no number") from None

    def watched(self) -> WatchedFiles[int]:
        return WatchedFiles("the numbers", [self.path], self, lambda: self.now)

    def later(self) -> None:
        self.now += RECHECK_SECONDS


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    (tmp_path / "n").write_text("1")
    return Reading(tmp_path / "n")


def replace(path: Path, text: str) -> None:
    """As careful programs renew a file: another one takes its place."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_change_is_seen_and_what_stays_is_not_read_again(reading: Reading) -> None:
    watched = reading.watched()
    for _ in range(3):
        reading.later()
        assert watched.current() == 1
    assert reading.count == 1
    replace(reading.path, "2")
    assert watched.current() == 1  # not looked at yet
    reading.later()
    assert watched.current() == 2
    assert reading.count == 2


@pytest.mark.parametrize("damage", ["", "x", None])
def test_what_cannot_be_read_leaves_the_old_and_is_said_once(
    reading: Reading, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    watched = reading.watched()
    if damage is None:
        reading.path.unlink()
    else:
        replace(reading.path, damage)
    for _ in range(3):
        reading.later()
        assert watched.current() == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the numbers stay as they were" in caplog.text
    replace(reading.path, "3")
    reading.later()
    assert watched.current() == 3


def test_what_can_be_used_later_is_used_then_without_another_change(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    """As a certificate whose time has not begun by this machine's clock."""
    begun = False

    def read() -> int:
        if (value := reading()) == 2 and not begun:
            raise StartupError("not yet valid")
        return value

    watched = WatchedFiles("the numbers", [reading.path], read, lambda: reading.now)
    replace(reading.path, "2")
    for _ in range(3):
        reading.later()
        assert watched.current() == 1
    begun = True
    assert watched.current() == 1  # looked at once a second, refused or not
    reading.later()
    assert watched.current() == 2
    assert [record.levelno for record in caplog.records if record.levelno >= logging.INFO] == [logging.ERROR]
    count = reading.count
    reading.later()
    assert (watched.current(), reading.count) == (2, count)  # and is left alone from then on


def test_a_link_that_is_turned_is_a_change(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n").write_text("1" if name == "old" else "2")
        os.utime(tmp_path / name / "n", (1, 1))
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "n").symlink_to("data/n")
    reading = Reading(tmp_path / "n")
    watched = reading.watched()
    (tmp_path / "turned").symlink_to("new")
    os.replace(tmp_path / "turned", tmp_path / "data")
    reading.later()
    assert watched.current() == 2


def test_what_changes_while_it_is_read_is_read_again(reading: Reading) -> None:
    inner = Reading(reading.path)

    def read() -> int:
        value = inner()
        if inner.count == 1:
            replace(reading.path, "2")
        return value

    watched = WatchedFiles("the numbers", [reading.path], read, lambda: inner.now)
    assert watched.current() == 1
    inner.later()
    assert watched.current() == 2


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--flag: cannot read .*: No such file"):
        Reading(tmp_path / "missing").watched()


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n").write_bytes(b"0" * (MAX_FILE_BYTES + 1))
    with pytest.raises(StartupError, match="over 1048576 bytes"):
        Reading(tmp_path / "n").watched()
