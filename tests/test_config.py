"""Settings: where they come from, and what is refused."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from seqserve_server.config import ServerConfig, add_arguments, resolve, settings
from seqserve_server.errors import StartupError


def parse(*arguments: str, environment: dict[str, str] | None = None) -> ServerConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return resolve(vars(parser.parse_args(arguments)), environment or {})


def test_defaults_are_those_of_the_contract() -> None:
    config = parse("bundle")
    assert config.bundles == (Path("bundle"),)
    assert (config.host, config.port, config.metrics_port) == ("127.0.0.1", 50051, 9090)
    assert config.max_waiting >= 2048


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environment = {"SEQSERVE_MAX_ROWS": "7", "SEQSERVE_PORT": "8", "HOME": "/"}
    config = parse("bundle", "--port", "9", environment=environment)
    assert (config.port, config.max_rows, config.metrics_port) == (9, 7, 9090)


def another(entry: "dataclasses.Field[Any]") -> Any:
    """A value that a setting may have and does not have by default."""
    named = {
        "host": "::1", "device": "cpu", "log_level": "debug", "log_format": "json", "tenant_weights": "gold=4",
    }
    if entry.metadata["kind"] is bool:
        return not entry.default
    if entry.metadata["kind"] is int:
        return max(3, (entry.metadata["low"] or 0) + 1)
    return named.get(entry.name, "somewhere")


def test_every_setting_has_a_flag_a_variable_and_a_key(tmp_path: Path) -> None:
    for entry in settings():
        value = another(entry)
        flag, variable = f"--{entry.name.replace('_', '-')}", f"SEQSERVE_{entry.name.upper()}"
        together = {"tls_cert": {"SEQSERVE_TLS_KEY": "k"}, "tls_key": {"SEQSERVE_TLS_CERT": "c"}, "tls_client_ca": {
            "SEQSERVE_TLS_KEY": "k", "SEQSERVE_TLS_CERT": "c"}, "auth_health": {"SEQSERVE_AUTH_TOKENS_FILE": "t"}}
        beside = together.get(entry.name, {})
        by_flag = parse("b", flag, *([] if entry.default is False else [str(value)]), environment=beside)
        by_variable = parse("b", environment={variable: str(value), **beside})
        file = tmp_path / f"{entry.name}.toml"
        file.write_text(f"{entry.name.replace('_', '-')} = {json.dumps(value)}\n")
        by_file = parse("b", "--config", str(file), environment=beside)
        assert by_flag == by_variable == by_file
        assert getattr(by_flag, entry.name) != entry.default
        sources = [each.sources[entry.name] for each in (by_flag, by_variable, by_file)]
        assert sources == [flag, variable, f"{file}: {entry.name}"]
        assert all(f" ({source})" in each.describe() for source, each in
                   zip(sources, (by_flag, by_variable, by_file), strict=True))


def test_an_unknown_variable_of_ours_is_refused_and_others_are_not_looked_at() -> None:
    with pytest.raises(StartupError, match="SEQSERVE_MAX_ROW: no such setting"):
        parse("bundle", environment={"SEQSERVE_MAX_ROW": "3"})
    parse("bundle", environment={"SEQ": "1", "XSEQSERVE_PORT": "x", "SEQSERVE_TOKEN": "of the client's commands"})


def test_the_closest_name_is_told() -> None:
    with pytest.raises(StartupError, match=r"SEQSERVE_METRICPORT: no such .* mean SEQSERVE_METRICS_PORT\?"):
        parse("bundle", environment={"SEQSERVE_METRICPORT": "3"})
    with pytest.raises(StartupError, match="SEQSERVE_ZZZZ: no such setting; `seqserve serve --help` lists them"):
        parse("bundle", environment={"SEQSERVE_ZZZZ": "3"})


def test_a_value_that_is_wrong_is_not_repeated_from_an_unknown_variable() -> None:
    with pytest.raises(StartupError) as caught:
        parse("bundle", environment={"SEQSERVE_PASSWORD": "hunter2"})
    assert "hunter2" not in str(caught.value)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_gives_what_neither_flags_nor_variables_give(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", 'bundles = ["x", "y"]\nmax-rows = 7\nport = 8\nmetrics_port = 10\n')
    config = parse("--config", file, "--port", "9", environment={"SEQSERVE_METRICS_PORT": "11"})
    assert (config.bundles, config.max_rows, config.port, config.metrics_port) == ((Path("x"), Path("y")), 7, 9, 11)
    assert config.sources == {
        "bundles": f"{file}: bundles", "max_rows": f"{file}: max_rows", "port": "--port",
        "metrics_port": "SEQSERVE_METRICS_PORT",
    }
    assert parse("z", environment={"SEQSERVE_CONFIG": file}).bundles == (Path("z"),)
    assert parse(environment={"SEQSERVE_CONFIG": file, "SEQSERVE_BUNDLES": "p:q"}).bundles == (Path("p"), Path("q"))


@pytest.mark.parametrize(("text", "said"), [
    ("max_row = 3\n", "max_row: no such setting; did you mean max_rows?"),
    ("[limits]\nmax_rows = 3\n", "limits: no such setting"),
    ("max_rows = 3\nmax-rows = 3\n", "max-rows: given twice"),
    ("max_rows = '3'\n", "max_rows: '3' is not a whole number"),
    ("max_rows = true\n", "max_rows: True is not a whole number"),
    ("max_rows = 3.0\n", "max_rows: 3.0 is not a whole number"),
    ("reflection = 1\n", "reflection: 1 is not true or false"),
    ("host = 1\n", "host: 1 is not a string"),
    ("tls_cert = ['a']\n", "tls_cert: ['a'] is not a string"),
    ("bundles = 'x'\n", "bundles: 'x' is not a list of strings"),
    ("bundles = [1]\n", "bundles: [1] is not a list of strings"),
    ("max_rows\n", "not TOML"),
    ("max_rows = 3\nmax_rows = 4\n", "not TOML"),
    ("config = 'other.toml'\n", "config: no such setting"),
    ("sources = 3\n", "sources: no such setting"),
    ("max_rows = 0\n", "--max-rows: 0 is not in 1..4096"),
    ("#" * (1 << 20) + "\n", "over 1048576 bytes"),
    ("a = " + "[" * 100_000, "not TOML"),
])
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError) as caught:
        parse("bundle", "--config", write(tmp_path / "s.toml", text))
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--config: cannot read .*missing\.toml: No such file"):
        parse("bundle", "--config", str(tmp_path / "missing.toml"))
    with pytest.raises(StartupError, match=r"--config: cannot read .*: Is a directory"):
        parse("bundle", "--config", str(tmp_path))
    (tmp_path / "bytes.toml").write_bytes(b"host = '\xff'")
    with pytest.raises(StartupError, match="not TOML"):
        parse("bundle", "--config", str(tmp_path / "bytes.toml"))


@pytest.mark.parametrize(("arguments", "said"), [
    (["--tls-cert", "c"], "--tls-cert and --tls-key go together"),
    (["--tls-key", "k"], "--tls-cert and --tls-key go together"),
    (["--tls-client-ca", "a"], "--tls-client-ca needs --tls-cert"),
    (["--auth-health"], "--auth-health needs --auth-tokens-file"),
    (["--auth-tokens-file", ""], "--auth-tokens-file: empty"),
])
def test_settings_that_need_each_other_say_so(arguments: list[str], said: str) -> None:
    with pytest.raises(StartupError, match=said):
        parse("bundle", *arguments)


@pytest.mark.parametrize(("arguments", "environment", "said"), [
    (["--port", "65536"], {}, "--port: 65536 is not in 0..65535"),
    (["--port", "-1"], {}, "--port: -1 is not in 0..65535"),
    (["--port", "x"], {}, "--port: 'x' is not a whole number"),
    (["--max-rows", "0"], {}, "--max-rows: 0 is not in 1..4096"),
    (["--max-rows", "1.5"], {}, "--max-rows: '1.5' is not a whole number"),
    (["--cache-bytes", "65535"], {}, "--cache-bytes: 65535 is not in at least 65536"),
    (["--device", "tpu"], {}, "--device: 'tpu' is not one of auto, cpu, cuda"),
    (["--log-level", "loud"], {}, "--log-level: 'loud' is not one of"),
    ([], {"SEQSERVE_REFLECTION": "yes"}, "SEQSERVE_REFLECTION: 'yes' is neither true nor false"),
    ([], {"SEQSERVE_NO_SCORER": "1"}, "SEQSERVE_NO_SCORER: '1' is neither true nor false"),
    ([], {"SEQSERVE_MAX_INPUTS": ""}, "SEQSERVE_MAX_INPUTS: '' is not a whole number"),
    (["--tenant-weights", "gold"], {}, "--tenant-weights: 'gold' is not of the form NAME=WEIGHT"),
    (["--max-overtaken", "-1"], {}, "--max-overtaken: -1 is not in 0..1048576"),
    ([], {"SEQSERVE_DRAIN_SECONDS": "-1"}, "--drain-seconds: -1 is not in 0..3600"),
])
def test_a_bad_value_is_named_with_its_bounds(arguments: list[str], environment: dict[str, str], said: str) -> None:
    with pytest.raises(StartupError) as caught:
        parse("bundle", *arguments, environment=environment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_needs_a_bundle() -> None:
    with pytest.raises(StartupError, match="no bundle"):
        ServerConfig(bundles=())


def test_a_configuration_is_frozen() -> None:
    config: Any = parse("bundle")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1


def test_the_description_is_one_line_with_every_value() -> None:
    line = parse("a", "b").describe()
    assert "\n" not in line
    assert line.startswith("bundles=a,b host=127.0.0.1 port=50051 ")
    assert all(f" {entry.name}=" in line for entry in settings())


def test_help_shows_each_flag_with_its_variable_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "[SEQSERVE_MAX_WAITING] (default: 2048)" in text
    assert all(f"[SEQSERVE_{entry.name.upper()}]" in text for entry in settings())
