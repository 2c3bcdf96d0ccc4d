"""Settings of ``seqserve serve``: frozen, from flags, then environment, then defaults; unknown names are refused."""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve_server.errors import ConfigError
from seqserve_server.inputs import MAX_TEXT_BYTES
from seqserve_server.served_model import DEFAULT_CACHE_BYTES, DEFAULT_ENCODE_TOKENS, DEFAULT_MAX_ROWS

ENVIRONMENT_PREFIX = "SEQSERVE_"
CHOICES = {"device": ("auto", "cpu", "cuda"), "log_level": ("debug", "info", "warning", "error")}


def _setting(default: Any, text: str, low: int | None = None, high: int | None = None) -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One server. Every field but ``bundles`` is a flag (``--max-rows``) and a variable (``SEQSERVE_MAX_ROWS``)."""

    bundles: tuple[Path, ...]
    host: str = _setting("127.0.0.1", "address to listen on; containers pass 0.0.0.0")
    port: int = _setting(50051, "gRPC port; 0 picks a free one", 0, 65535)
    metrics_port: int = _setting(9090, "HTTP port of /metrics; 0 picks a free one", 0, 65535)
    default_model: str = _setting("", "model of requests that name none; else, of several, each names one")
    watch_seconds: int = _setting(
        0, "look every so many seconds whether bundles changed; 0 looks on SIGHUP only, which always works", 0, 86400
    )
    device: str = _setting("auto", "auto, cpu or cuda; fp16 bundles run on cuda, all others on the cpu")
    threads: int = _setting(0, "threads of the engine; 0 means one per core", 0, 1024)
    max_rows: int = _setting(DEFAULT_MAX_ROWS, "most sequences decoded at once, of each model", 1, 4096)
    cache_bytes: int = _setting(DEFAULT_CACHE_BYTES, "most bytes of attention caches, of each model", 1 << 16, None)
    encoder_cache_bytes: int = _setting(
        64 * 2**20, "most bytes kept of what each model's encoder made of sources, for later ones; 0 keeps nothing", 0
    )
    encode_tokens: int = _setting(
        DEFAULT_ENCODE_TOKENS, "most source tokens encoded between two decoder steps", 1, 1 << 20
    )
    max_waiting: int = _setting(2048, "most requests that wait; more are refused at once", 1, 1 << 20)
    max_inputs: int = _setting(1024, "most inputs in one call", 1, 1 << 20)
    max_text_bytes: int = _setting(MAX_TEXT_BYTES, "most UTF-8 bytes of one input text", 1, 1 << 24)
    max_message_bytes: int = _setting(4 * 2**20, "most bytes of one gRPC message", 1 << 10, 1 << 30)
    max_streams: int = _setting(4096, "most concurrent calls of one connection", 1, 1 << 20)
    drain_seconds: int = _setting(30, "on SIGTERM, seconds that running calls have to finish", 0, 3600)
    hang_seconds: int = _setting(
        30, "seconds without a finished step, while there is work, after which the engine hangs and the process ends; "
        "0 for never", 0, 3600
    )
    write_timeout_seconds: int = _setting(
        60, "seconds that a client has to read a message of a stream before its request is cancelled; 0 for ever",
        0, 3600,
    )
    reflection: bool = _setting(True, "serve gRPC reflection (true or false)")
    no_scorer: bool = _setting(False, "leave the scorer closed, which saves its memory: no scores, no alignments")
    log_level: str = _setting("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: naming the flag, its value and what is allowed.
        """
        for entry in dataclasses.fields(self):
            value, low, high = getattr(self, entry.name), entry.metadata.get("low"), entry.metadata.get("high")
            if (low is not None and value < low) or (high is not None and value > high):
                bounds = f"{low}..{high}" if high is not None else f"at least {low}"
                raise ConfigError(f"--{entry.name.replace('_', '-')}: {value} is not in {bounds}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        if not self.bundles:
            raise ConfigError("no bundle was given")

    def describe(self) -> str:
        """One line with every resolved value."""
        return " ".join(f"{entry.name}={_plain(getattr(self, entry.name))}" for entry in dataclasses.fields(self))


def _plain(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def settings() -> list[dataclasses.Field[Any]]:
    """The fields that are flags, in order."""
    return [entry for entry in dataclasses.fields(ServerConfig) if entry.name != "bundles"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundles and one flag per setting; ``--help`` shows each with its variable and default."""
    parser.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE",
        help="directory written by `seqserve export`, or one that holds such: MODEL/, or MODEL/VERSION/, numbered",
    )
    for entry in settings():
        name, variable = entry.name.replace("_", "-"), ENVIRONMENT_PREFIX + entry.name.upper()
        # A switch that is off takes no value on the command line; its variable is true or false.
        kind: dict[str, Any] = {"action": "store_const", "const": "true"} if entry.default is False else {
            "metavar": name.rsplit("-", 1)[-1].upper()
        }
        parser.add_argument(
            f"--{name}", dest=entry.name, default=None, **kind,
            help=f"{entry.metadata['help']} [{variable}] (default: {_plain(entry.default)})",
        )


def resolve(flags: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> ServerConfig:
    """Flags win over environment, environment over defaults.

    Raises:
        ConfigError: a value of the wrong kind, or a ``SEQSERVE_`` variable that is no setting.
    """
    environment = os.environ if environment is None else environment
    known = {ENVIRONMENT_PREFIX + entry.name.upper(): entry for entry in settings()}
    if unknown := sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known):
        raise ConfigError(f"{unknown[0]}: no such setting; `seqserve serve --help` lists them")
    values: dict[str, Any] = {"bundles": tuple(Path(bundle) for bundle in flags["bundles"])}
    for variable, entry in known.items():
        given = flags.get(entry.name)
        origin = f"--{entry.name.replace('_', '-')}"
        if given is None and variable in environment:
            given, origin = environment[variable], variable
        if given is not None:
            values[entry.name] = _parse(str(given), entry.default, origin)
    return ServerConfig(**values)


def _parse(text: str, default: object, origin: str) -> object:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{origin}: {text!r} is neither true nor false")
        return text.lower() == "true"
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{origin}: {text!r} is not a whole number") from None
    return text
