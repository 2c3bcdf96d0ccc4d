"""Settings: where they come from, and what is refused."""

import argparse
import dataclasses
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


def test_every_setting_has_a_flag_and_a_variable() -> None:
    other = {"host": "::1", "device": "cpu", "log_level": "debug", "reflection": "false", "no_scorer": "true",
             "log_format": "json", "access_log": "true", "otlp_endpoint": "http://collector:4317"}
    for entry in settings():
        value = other.get(entry.name, "70000" if entry.name in ("cache_bytes", "max_message_bytes") else "3")
        flag, variable = f"--{entry.name.replace('_', '-')}", f"SEQSERVE_{entry.name.upper()}"
        by_flag = parse("b", flag, *([] if entry.default is False else [value]))
        by_variable = parse("b", environment={variable: value})
        assert by_flag == by_variable
        assert getattr(by_flag, entry.name) != entry.default


def test_an_unknown_variable_of_ours_is_refused_and_others_are_not_looked_at() -> None:
    with pytest.raises(StartupError, match="SEQSERVE_MAX_ROW: no such setting"):
        parse("bundle", environment={"SEQSERVE_MAX_ROW": "3"})
    parse("bundle", environment={"SEQ": "1", "XSEQSERVE_PORT": "x"})


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
