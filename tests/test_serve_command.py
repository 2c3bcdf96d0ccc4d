"""The real server process behind the real command line: started, asked, refused, stopped."""

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli_process import start
from malformed import GOAWAY, PREFACE, SETTINGS, frame
from seqserve_client import Client

READY = re.compile(r"ready grpc=(\S+) metrics=(\S+) models=tiny\n")


@contextmanager
def serving(bundle: Path) -> Iterator[tuple[Any, str, str]]:
    """The process, its gRPC target and its metrics address; killed if the test did not end it."""
    process = start("serve", str(bundle), "--port", "0", "--metrics-port", "0", "--threads", "1")
    try:
        ready = READY.fullmatch(process.stdout.readline())
        assert ready is not None, process.communicate()
        yield process, ready[1], ready[2]
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str, given: str | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    process = start(*arguments)
    out, err = process.communicate(given, timeout=120)
    return process.returncode, out, err


def refusal(*arguments: str) -> str:
    """The last line of a command that fails with exit code 1 and no traceback."""
    code, _, err = run(*arguments)
    assert code == 1, err
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize("wrong", [("--max-rows", "0"), ("--port", "many"), ("--device", "tpu")])
def test_a_flag_with_an_impossible_value_is_a_matter_of_usage(tiny_bundle: Path, wrong: tuple[str, str]) -> None:
    code, _, err = run("serve", str(tiny_bundle), *wrong)
    assert code == 2
    assert wrong[0] in err
    assert "Traceback" not in err


def test_a_server_answers_the_command_line_and_stops_when_told(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as (process, target, _):
        assert run("health", "--target", target)[0] == 0
        info = json.loads(run("info", "--target", target, "--json")[1])
        assert [(model["name"], model["family"], model["precision"]) for model in info["models"]] == [
            ("tiny", "native", "fp32")
        ]
        asked = ("--token-ids", "--max-new-tokens", "6")
        code, through_server, _ = run("generate", "--target", target, *asked, given="5 17 3\n\n9\n")
        assert code == 0
        assert through_server == run("generate", "--model", str(tiny_bundle), *asked, given="5 17 3\n\n9\n")[1]
        streamed = run("generate", "--target", target, "--stream", *asked, given="5 17 3\n\n9\n")[1]
        assert streamed == through_server
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert run("health", "--target", target)[0] == 3


def test_a_call_that_runs_when_the_server_is_told_to_stop_gets_its_whole_answer(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as (process, target, _), Client(target, timeout=60) as client:
        alone = client.generate(token_ids=[[5, 17]], max_new_tokens=128, min_new_tokens=128)[0]
        stream = client.stream(token_ids=[5, 17], max_new_tokens=128, min_new_tokens=128)
        received = list(next(stream).token_ids)
        process.send_signal(signal.SIGTERM)
        for chunk in stream:
            received += chunk.token_ids
        assert received == alone.hypotheses[0].token_ids
        assert process.wait(60) == 0


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_in_use_is_one_line_that_names_the_flag(tiny_bundle: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--port": "0", "--metrics-port": "0", flag: str(taken.getsockname()[1])}
        line = refusal("serve", str(tiny_bundle), *(word for pair in ports.items() for word in pair))
    assert flag in line
    assert "cannot listen" in line


def damage_truncate(bundle: Path) -> None:
    path = bundle / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(bundle: Path) -> None:
    path = bundle / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_remove(bundle: Path) -> None:
    (bundle / "model.json").unlink()


@pytest.mark.parametrize("command", ["serve", "verify"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [(damage_truncate, "decoder.onnx"), (damage_flip, "encoder.onnx"), (damage_remove, "model.json")],
)
def test_a_damaged_bundle_is_one_line_that_names_the_file(
    tiny_bundle: Path, tmp_path: Path, command: str, damage: Any, told: str
) -> None:
    bundle = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, bundle)
    damage(bundle)
    ports = ["--port", "0", "--metrics-port", "0"] if command == "serve" else []
    assert told in refusal(command, str(bundle), *ports)


def test_a_sound_bundle_is_verified(tiny_bundle: Path) -> None:
    code, out, _ = run("verify", str(tiny_bundle))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["checksums", "graphs", "golden", "smoke"]


def test_a_variable_that_is_no_setting_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_PROT", "1")
    code, _, err = run("serve", str(tiny_bundle))
    assert code == 2
    assert "SEQSERVE_PROT: no such setting" in err


def test_bytes_of_hostile_connections_stay_out_of_the_log(tiny_bundle: Path) -> None:
    secret = b"Geheimnis" * 3
    goaway = frame(GOAWAY, 0, 0, bytes(7) + b"\x07" + secret)  # with an error code: the others are not logged
    with serving(tiny_bundle) as (process, target, _):
        for data in (PREFACE + frame(SETTINGS, 0, 0) + goaway, secret, PREFACE + frame(SETTINGS, 0, 5, secret)):
            with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as link:
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
                while link.recv(1000):
                    pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        said = process.stderr.read()
    assert "configuration" in said
    assert "Geheimnis" not in said
