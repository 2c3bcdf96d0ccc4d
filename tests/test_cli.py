"""The command line: output, exit codes, one line per error, and nothing imported that is not needed."""

import json
import os
import pty
import threading
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from cli_process import start
from fake_server import FakeServer
from seqserve_cli.main import COMMANDS, main

NOBODY = "127.0.0.1:1"


def exit_code(arguments: list[str]) -> int:
    """Of ``main``, also where argparse exits."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize(("words", "said"), [
    (["serve", "bundle", "--max-row", "3"], "unrecognized arguments: --max-row 3; did you mean --max-rows?"),
    (["bench", "--ratee=3"], "unrecognized arguments: --ratee=3; did you mean --rate?"),
    (["health", "--zzzz"], "unrecognized arguments: --zzzz"),
    (["--verbose"], "unrecognized arguments: --verbose"),
])
def test_an_unknown_flag_is_told_with_the_one_that_was_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"seqserve: error: {said}"


@pytest.mark.parametrize(
    "command", [["generate", "a"], ["generate", "--stream", "a"], ["info"], ["health"], ["bench", "--requests", "1"]]
)
def test_an_unreachable_server_is_exit_code_3_and_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], "--target", NOBODY, *command[1:]]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"seqserve: cannot reach a server at {NOBODY}")
    assert captured.err.count("\n") == 1


def test_a_server_that_never_answers_counts_as_unreachable_for_health(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    release = threading.Event()
    server.health.before = lambda: release.wait(30)
    assert main(["health", "--target", server.target, "--timeout", "0.2"]) == 3
    release.set()
    assert "no answer within 0.2 s" in capsys.readouterr().err


def test_health_tells_by_its_exit_code(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--target", server.target]) == 0
    assert capsys.readouterr().out == "SERVING\n"
    server.health.status = health_pb2.HealthCheckResponse.NOT_SERVING
    assert main(["health", "--target", server.target]) == 1
    assert main(["health", "--target", server.target, "--service", "other"]) == 1
    assert capsys.readouterr().out == "NOT_SERVING\n" * 2


def test_info_prints_the_contracts_json(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--target", server.target, "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert {name: model[name] for name in ("name", "version", "family", "precision")} == {
        "name": "capitals",
        "version": "0123456789ab",
        "family": "fake",
        "precision": "fp32",
    }
    assert (model["limits"]["max_inputs"], model["limits"]["max_beam_size"]) == (8, 8)
    assert (model["defaults"]["beam_size"], model["defaults"]["stopping"]) == (2, "patience")
    assert main(["info", "--target", server.target]) == 0
    out = capsys.readouterr().out
    for line in ("max_source_tokens      512", "default beam_size      2", "default stopping       patience"):
        assert f"\n  {line}\n" in out


def test_bench_prints_a_table_and_saves_json(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "result.json"
    text = tmp_path / "input.txt"
    text.write_text("two dogs\n\na man\n")
    arguments = ["bench", "--target", server.target, "--requests", "6", "--rate", "inf", "--warmup", "1"]
    code = main([*arguments, "--input", str(text), "--stream", "--goodput", "e2el:60000", "--save-result", str(saved)])
    assert code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "6 completed, 0 failed" in captured.out
    assert "time to first token" in captured.out
    figures = json.loads(saved.read_text())
    assert (figures["completed"], figures["request_rate"], figures["total_output_tokens"]) == (6, "inf", 18)
    assert main([*arguments, "--json", "--random-ids", "7", "--concurrency", "2", "--beam-size", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["total_input_tokens"] == 6 * 8
    assert len(server.servicer.calls[-1].inputs[0].token_ids.ids) == 7
    assert {call.options.beam_size for call in server.servicer.calls} == {0, 4}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["generate", "--nonsense"],
        ["generate", "--target", "host:1", "--model", "bundle", "a"],
        ["generate", "--model", "bundle", "--model-name", "other", "a"],
        ["generate", "--timeout", "-1", "a"],
        ["generate", "--max-new-tokens", "many", "a"],
    ],
)
def test_usage_errors_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 2
    assert capsys.readouterr().err


def test_no_command_and_no_text_on_a_terminal_print_help() -> None:
    assert main([]) == 2
    terminal, device = pty.openpty()
    try:
        process = start("generate", stdin=device)
        output, errors = process.communicate(timeout=60)
    finally:
        os.close(device)
        os.close(terminal)
    assert (process.returncode, output) == (2, "")
    assert "examples:" in errors


def test_help_and_version_need_no_package_but_the_standard_library() -> None:
    code = (
        "before = set(sys.modules); from seqserve_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    for argument in ("--help", "--version"):
        output, errors = start(argument, python=code).communicate(timeout=60)
        assert output.splitlines()[-1] in ("['seqserve_cli']", "['seqserve', 'seqserve_cli']")
        assert errors == ""
        assert "seqserve" in output


@pytest.mark.parametrize("name", [command.name for command in COMMANDS if not command.extras] + ["generate"])
def test_every_client_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([name, "--help"]) == 0
    assert f"seqserve {name}" in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["export", "in", "out"], "torch", "seqserve[export,server]"),
        (["serve", "bundle"], "onnxruntime", "seqserve[server]"),
        (["verify", "bundle"], "onnxruntime", "seqserve[server]"),
        (["generate", "--model", "bundle", "a"], "onnxruntime", "seqserve[server]"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(
    arguments: list[str],
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(self: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.part")

    monkeypatch.setattr("seqserve_cli.main.Command.load", load)
    assert main(arguments) == 1
    message = f"seqserve: {arguments[0]} needs the package {package!r}: pip install '{extra}'\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("onnxruntime", ["generate", "--model", "bundle", "a"]), ("torch", ["export", "in", "out"])],
)
def test_a_package_that_is_really_missing_is_named_too(package: str, arguments: list[str]) -> None:
    code = f"sys.modules[{package!r}] = None; from seqserve_cli.main import main; sys.exit(main())"
    process = start(*arguments, python=code)
    output, errors = process.communicate(timeout=60)
    assert errors.startswith(f"seqserve: {arguments[0]} needs the package {package!r}: pip install ")
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)


def test_a_missing_module_of_our_own_is_not_blamed_on_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> Any:
        raise ModuleNotFoundError("No module named 'seqserve_server.gone'", name="seqserve_server.gone")

    monkeypatch.setattr("seqserve_cli.main.Command.load", load)
    with pytest.raises(ModuleNotFoundError):
        main(["serve", "bundle"])
