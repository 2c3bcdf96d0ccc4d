"""``seqserve align`` and ``seqserve generate --stream`` in a terminal, as a user sees them; and every ``--help``."""

import argparse
import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fake_server import FakeServer
from pseudo_terminal import INTERRUPT, PseudoTerminal
from seqserve_cli import exits, terminal
from seqserve_cli.answers import Bundle
from seqserve_cli.main import COMMANDS, main
from test_cli_generate import give_stdin

SENTENCE = "a group of young people is standing in front of a large old building with many windows"
WRAPPED = ["A GROUP OF YOUNG PEOPLE IS STANDING IN", "FRONT OF A LARGE OLD BUILDING WITH MANY", "WINDOWS"]


@pytest.fixture
def steps(server: FakeServer) -> Iterator[Callable[[int], None]]:
    """Lets streams go on by so many chunks; at the end all go on."""
    waiting = threading.Semaphore(0)
    server.servicer.between_chunks = waiting.acquire
    yield lambda count: waiting.release(count)
    waiting.release(1000)


def test_a_map_fits_the_terminal_and_is_coloured(server: FakeServer) -> None:
    with PseudoTerminal("align", "--target", server.target, SENTENCE, columns=40, height=100) as window:
        shown = window.read()
    assert [line for line in shown if "source tokens" in line] == [
        "source tokens 0 to 8 of 0 to 17", "source tokens 9 to 17 of 0 to 17"
    ]
    assert max(map(len, shown)) <= 40
    assert "\033[91m██\033[0m" in window.written
    assert window.process.returncode == 0


@pytest.mark.parametrize(("arguments", "environment"), [
    (["--color", "never"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}),
])
def test_a_map_without_colours_has_no_orders_for_the_terminal(
    arguments: list[str], environment: dict[str, str], server: FakeServer
) -> None:
    pair = ["two dogs", "zwei hunde"]
    with PseudoTerminal("align", *arguments, "--target", server.target, *pair, environment=environment) as window:
        assert window.read()[-2:] == ["zwei  ██", "hunde   ██"]
    assert "\033" not in window.written


def test_colours_are_for_terminals_unless_they_are_asked_for(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ["--target", server.target, " ".join(["two dogs"] * 60), "zwei"]
    assert main(["align", *pair]) == 0
    plain = capsys.readouterr().out
    assert "\033" not in plain
    assert "source tokens" not in plain  # a file has no width
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["align", "--color", "always", "--width", "50", *pair]) == 0
    shown = capsys.readouterr().out
    assert "\033[91m██\033[0m" in shown
    assert "source tokens" in shown
    monkeypatch.setattr(terminal, "drawn_on", lambda: True)
    assert not terminal.coloured("auto")
    monkeypatch.setenv("NO_COLOR", "")
    assert terminal.coloured("auto")
    assert not terminal.coloured("never")


def test_two_maps_have_a_line_between_them(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"a\tb\na\tb\n")
    assert main(["align", "--target", server.target]) == 0
    one = ["    <", "    /", "    s", "  a >", "b ██"]
    assert capsys.readouterr().out.splitlines() == [*one, "", *one]


def test_streamed_words_are_shown_at_once_and_not_broken(server: FakeServer, steps: Callable[[int], None]) -> None:
    with PseudoTerminal("generate", "--stream", "--target", server.target, SENTENCE, columns=40) as window:
        assert window.read_until(lambda shown: shown == ["A"])
        steps(7)
        assert window.read_until(lambda shown: shown == WRAPPED[:1])
        steps(20)
        assert window.read() == WRAPPED
    assert window.process.returncode == 0


def test_lines_are_left_to_the_terminal_where_that_is_asked_for(server: FakeServer) -> None:
    command = ["generate", "--stream", "--no-wrap", "--target", server.target, SENTENCE]
    with PseudoTerminal(*command, columns=40) as window:
        shown = window.read()
    assert "".join(line.ljust(40) for line in shown).rstrip() == SENTENCE.upper()
    assert window.written.rstrip() == SENTENCE.upper()


@pytest.mark.usefixtures("steps")
def test_an_interrupt_in_mid_stream_leaves_the_cursor_at_a_line_of_its_own(server: FakeServer) -> None:
    with PseudoTerminal("generate", "--stream", "--target", server.target, SENTENCE) as window:
        window.read_until(lambda shown: shown == ["A"])
        window.type(INTERRUPT)
        assert window.read() == ["A^C"]  # which the terminal itself writes
        assert (window.screen.cursor.x, window.screen.cursor.y) == (0, 1)
        assert window.process.returncode == exits.INTERRUPTED
        assert server.servicer.ended.acquire(timeout=60)


async def test_an_interrupt_is_heard_between_two_tokens_of_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes through the event loop, which nobody else waits for then."""
    model = SimpleNamespace(stream=lambda *_, **__: iter(range(1000)))
    monkeypatch.setattr("seqserve_server.local.LocalModel.open", lambda path: None)
    monkeypatch.setattr("seqserve_server.in_process.InProcess", lambda local: model)
    seen: list[Any] = []

    async def read() -> None:
        async for chunk in Bundle("bundle").stream(argparse.Namespace(), "texts", "a"):
            seen.append(chunk)
            if chunk == 3:
                reader.cancel()  # as asyncio.run does when it is interrupted

    reader = asyncio.create_task(read())
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert seen == [0, 1, 2, 3]


def test_an_error_in_mid_stream_is_told_on_a_line_of_its_own(server: FakeServer) -> None:
    def fail() -> None:
        raise RuntimeError

    server.servicer.between_chunks = fail
    with PseudoTerminal("generate", "--stream", "--target", server.target, SENTENCE) as window:
        shown = window.read()
    assert shown[0] == "A"
    assert shown[1].startswith("seqserve: ")
    assert window.process.returncode == exits.FAILURE


def test_a_window_that_is_resized_in_mid_stream_breaks_no_word(
    server: FakeServer, steps: Callable[[int], None]
) -> None:
    with PseudoTerminal("generate", "--stream", "--target", server.target, SENTENCE) as window:
        window.read_until(lambda shown: shown == ["A"])
        steps(3)
        window.read_until(lambda shown: shown == ["A GROUP OF YOUNG"])
        window.resize(30)
        steps(20)
        shown = window.read()
    assert max(map(len, shown)) < 30
    assert " ".join(shown) == SENTENCE.upper()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_fits_the_terminal(
    command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([command, "--help"] if command else ["--help"])
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if len(line) > columns] == []
    assert max(map(len, shown)) > 60  # it uses what there is
