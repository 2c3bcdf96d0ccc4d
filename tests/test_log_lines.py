"""The log: one line per record, and of exceptions neither text nor paths."""

import logging
import sys

import pytest

from seqserve_server.log_lines import ConsoleFormatter, configure, where


def record(message: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    found = None
    if error:
        try:
            raise ValueError("SECRET from /home/user/secret\nand more")
        except ValueError:
            found = sys.exc_info()
    return logging.LogRecord("name", logging.ERROR, "/home/x.py", 1, message, arguments, found)


def test_an_exception_is_told_by_kind_and_place() -> None:
    line = ConsoleFormatter().format(record("request %s failed", "r1", error=True))
    assert "\n" not in line
    assert "request r1 failed | builtins.ValueError at test_log_lines.py:" in line
    assert " in record" in line
    assert not any(word in line for word in ("SECRET", "/home", "Traceback"))


def test_deep_calls_are_told_from_the_inside_and_cut() -> None:
    def deep(levels: int) -> None:
        if not levels:
            raise KeyError("x")
        deep(levels - 1)

    with pytest.raises(KeyError) as caught:
        deep(20)
    line = where(caught.type, caught.tb)
    assert line.startswith("builtins.KeyError at test_log_lines.py:")
    assert line.count(" < ") == 5


def test_what_is_logged_cannot_pass_for_a_record() -> None:
    line = ConsoleFormatter().format(record("model %s", "a\r\n2026-01-01 00:00:00,000 ERROR seqserve_server gone"))
    assert "\n" not in line
    assert "\r" not in line


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
def test_only_debug_shows_the_traceback(
    level: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    configure(level, "console")
    root.handle(record("failed", error=True))
    said = capsys.readouterr().err
    assert ("SECRET" in said) is ("Traceback" in said) is shown
    assert root.level == getattr(logging, level.upper())
