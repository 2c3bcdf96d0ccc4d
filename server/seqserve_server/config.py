"""Settings of ``seqserve serve``: frozen, from flags, environment, a file and defaults, in this order.

Names that are no setting are refused. No setting is a secret itself: those are in files, which are named here and never
printed, because flags and variables of a process can be read by others.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve_server.config_file import closest, read_config_file
from seqserve_server.errors import ConfigError
from seqserve_server.inputs import MAX_TEXT_BYTES
from seqserve_server.log_lines import FORMATS
from seqserve_server.served_model import DEFAULT_CACHE_BYTES, DEFAULT_ENCODE_TOKENS, DEFAULT_MAX_ROWS
from seqserve_server.waiting import DEFAULT_MAX_OVERTAKEN, read_weights

ENVIRONMENT_PREFIX = "SEQSERVE_"
OTHER_VARIABLES = ("SEQSERVE_TOKEN",)  # of the client's commands, which may run in the same shell
_NO_FLAGS = ("bundles", "sources")
# The longest models hold some 2 000 tokens of source and answer, four times that with beams: 2 048 requests of 8 192.
DEFAULT_WAITING_TOKENS = 2048 * 8192
# 2 048 messages of 128 KiB, where a sentence has some hundred bytes; without a bound they might have 4 MiB each.
DEFAULT_WAITING_BYTES = 256 * 2**20
CHOICES = {"device": ("auto", "cpu", "cuda"), "log_level": ("debug", "info", "warning", "error"), "log_format": FORMATS}


def _setting(
    default: Any, text: str, low: int | None = None, high: int | None = None, kind: type | None = None
) -> Any:
    """``kind`` is needed where the default, None, does not tell it."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "kind": kind or type(default)})


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One server. Every setting is a flag (``--max-rows``), a variable (``SEQSERVE_MAX_ROWS``) and a key of the file.

    Attributes:
        sources: Where each value that is no default came from, such as ``--port`` or ``SEQSERVE_PORT``.
    """

    bundles: tuple[Path, ...]
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    host: str = _setting("127.0.0.1", "address to listen on; containers pass 0.0.0.0")
    port: int = _setting(50051, "gRPC port; 0 picks a free one", 0, 65535)
    metrics_port: int = _setting(9090, "HTTP port of /metrics; 0 picks a free one", 0, 65535)
    default_model: str = _setting("", "model of requests that name none; else, of several, each names one")
    watch_seconds: int = _setting(
        0, "look every so many seconds whether bundles changed; 0 looks on SIGHUP only, which always works", 0, 86400
    )
    device: str = _setting("auto", "auto, cpu or cuda; fp16 bundles run on cuda, all others on the cpu")
    threads: int = _setting(0, "threads of the engine; 0 means one per core", 0, 1024)
    engine_niceness: int = _setting(
        5, "how far the engine's threads step back for those that answer, who need little, and for other programs of "
        "the same control group; 0 not at all (Linux)", 0, 19
    )
    max_rows: int = _setting(DEFAULT_MAX_ROWS, "most sequences decoded at once, of each model", 1, 4096)
    cache_bytes: int = _setting(DEFAULT_CACHE_BYTES, "most bytes of attention caches, of each model", 1 << 16, None)
    encoder_cache_bytes: int = _setting(
        64 * 2**20, "most bytes kept of what each model's encoder made of sources, for later ones; 0 keeps nothing", 0
    )
    encode_tokens: int = _setting(
        DEFAULT_ENCODE_TOKENS, "most source tokens encoded between two decoder steps", 1, 1 << 20
    )
    max_waiting: int = _setting(2048, "most requests that wait; more are refused at once", 1, 1 << 20)
    max_waiting_tokens: int = _setting(
        DEFAULT_WAITING_TOKENS, "most tokens that requests which wait or run bring and may generate", 1, 1 << 62
    )
    max_waiting_bytes: int = _setting(
        DEFAULT_WAITING_BYTES, "most bytes of the messages that requests which wait or run came in", 1, 1 << 62
    )
    max_overtaken: int = _setting(
        DEFAULT_MAX_OVERTAKEN, "how often others may go before the first in a tenant's line; then it goes first",
        0, 1 << 20,
    )
    tenant_weights: str = _setting(
        "", "shares of tenants (of a token, else metadata x-tenant), such as gold=4,free=0.5; others have 1"
    )
    max_inputs: int = _setting(1024, "most inputs in one call", 1, 1 << 20)
    max_text_bytes: int = _setting(MAX_TEXT_BYTES, "most UTF-8 bytes of one input text", 1, 1 << 24)
    max_message_bytes: int = _setting(4 * 2**20, "most bytes of one gRPC message that comes in", 1 << 10, 1 << 30)
    max_answer_bytes: int = _setting(64 * 2**20, "most bytes of one gRPC message that goes out", 1 << 10, 1 << 30)
    max_metadata_bytes: int = _setting(16 * 2**10, "most bytes of a call's metadata", 1 << 12, 1 << 20)
    max_streams: int = _setting(4096, "most concurrent calls of one connection", 1, 1 << 20)
    max_connections: int = _setting(4096, "most connections; more are closed at once", 1, 1 << 20)
    max_connection_age_seconds: int = _setting(
        300, "after this long a client is asked to connect anew, and so finds new replicas; 0 means never", 0, 1 << 20
    )
    max_connection_grace_seconds: int = _setting(
        600, "seconds that the calls of such a connection have to finish", 1, 1 << 20
    )
    insecure: bool = _setting(False, "listen without TLS on an address that other machines reach")
    tls_cert: Path | None = _setting(
        None, "PEM file with the server's certificate and its chain; read again when it changes", kind=Path
    )
    tls_key: Path | None = _setting(None, "PEM file with the certificate's private key, not encrypted", kind=Path)
    tls_client_ca: Path | None = _setting(
        None, "PEM file of authorities: clients need a certificate of one of them (mTLS)", kind=Path
    )
    auth_tokens_file: Path | None = _setting(
        None, "file of bearer tokens, one of which every call needs; read again when it changes", kind=Path
    )
    auth_health: bool = _setting(False, "ask for a token for grpc.health.v1 too, which probes cannot send")
    health_port: int | None = _setting(
        None, "another port, without TLS and tokens, for grpc.health.v1 alone; 0 picks a free one", 0, 65535, kind=int
    )
    drain_seconds: int = _setting(30, "on SIGTERM, seconds that running calls have to finish", 0, 3600)
    hang_seconds: int = _setting(
        30, "seconds without a finished step, while there is work, after which the engine hangs and the process ends; "
        "0 for never", 0, 3600
    )
    crash_journal: Path | None = _setting(
        None, "file that knows, also after a crash, what was in the engine: requests that end the process twice are "
        "refused from then on", kind=Path
    )
    write_timeout_seconds: int = _setting(
        60, "seconds that a client has to read a message of a stream before its request is cancelled; 0 for ever",
        0, 3600,
    )
    reflection: bool = _setting(True, "serve gRPC reflection (true or false)")
    open_inference: bool = _setting(True, "serve the Open Inference Protocol too (true or false)")
    no_scorer: bool = _setting(False, "leave the scorer closed, which saves its memory: no scores, no alignments")
    log_level: str = _setting("info", "debug, info, warning or error")
    log_format: str = _setting("console", "console or json: text for people, or one object a line")
    access_log: bool = _setting(False, "write a log line when a call ends")
    otlp_endpoint: str = _setting(
        "", "OTLP collector (gRPC) that traces go to, such as http://collector:4317; OTEL_* variables are heeded"
    )

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: naming the flag, its value and what is allowed.
        """
        for entry in dataclasses.fields(self):
            value, low, high = getattr(self, entry.name), entry.metadata.get("low"), entry.metadata.get("high")
            if value is None:
                continue
            if (low is not None and value < low) or (high is not None and value > high):
                bounds = f"{low}..{high}" if high is not None else f"at least {low}"
                raise ConfigError(f"--{entry.name.replace('_', '-')}: {value} is not in {bounds}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        try:
            read_weights(self.tenant_weights)
        except ValueError as error:
            raise ConfigError(f"--tenant-weights: {error}") from None
        if not self.bundles:
            raise ConfigError(
                "no bundle was given: name one as an argument, in SEQSERVE_BUNDLES, or under bundles in --config's file"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key: certificates are shown over TLS only")
        if self.auth_health and self.auth_tokens_file is None:
            raise ConfigError("--auth-health needs --auth-tokens-file")

    def describe(self) -> str:
        """One line with every resolved value, and where each comes from that is no default."""
        return " ".join(f"{name}={value}" for name, value in self.described().items())

    def described(self) -> dict[str, str]:
        """Every resolved value, and in brackets where it comes from if it is no default."""
        found = {}
        for entry in dataclasses.fields(self):
            if entry.name != "sources":
                source = self.sources.get(entry.name)
                found[entry.name] = _plain(getattr(self, entry.name)) + (f" ({source})" if source else "")
        return found


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return "none" if value is None else str(value)


def settings() -> list[dataclasses.Field[Any]]:
    """The fields that are flags, in order."""
    return [entry for entry in dataclasses.fields(ServerConfig) if entry.name not in _NO_FLAGS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundles and one flag per setting; ``--help`` shows each with its variable and default."""
    parser.add_argument(
        "bundles", nargs="*", type=Path, metavar="BUNDLE",
        help="directory written by `seqserve export`, or one that holds such: MODEL/, or MODEL/VERSION/, numbered "
        f"[SEQSERVE_BUNDLES, several with {os.pathsep!r} between]",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="TOML file of settings, named as the flags; flags and variables win over it [SEQSERVE_CONFIG]",
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
    """Flags win over the environment, the environment over the file, the file over defaults.

    Raises:
        ConfigError: a value of the wrong kind, or a ``SEQSERVE_`` variable or a key of the file that is no setting.
    """
    environment = os.environ if environment is None else environment
    known = {entry.name: entry for entry in settings()}
    _refuse_unknown(environment, [*known, "bundles", "config"])
    kinds = {"bundles": tuple, **{name: entry.metadata["kind"] for name, entry in known.items()}}
    file = flags.get("config") or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    in_file = read_config_file(Path(file), kinds) if file else {}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, kind in kinds.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        given: Any = flags.get(name)
        if given not in (None, []):
            origin = "" if kind is tuple else f"--{name.replace('_', '-')}"
        elif variable in environment:
            origin = variable
            given = environment[variable].split(os.pathsep) if kind is tuple else environment[variable]
        elif name in in_file:
            given, origin = in_file[name], f"{file}: {name}"
        else:
            continue
        values[name] = _parse(given, kind, origin)
        if origin:
            sources[name] = origin
    return ServerConfig(**{"bundles": (), **values}, sources=sources)


def _refuse_unknown(environment: Mapping[str, str], names: list[str]) -> None:
    known = [name.upper() for name in names]
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name not in known and variable not in OTHER_VARIABLES:
            raise ConfigError(f"{variable}: no such setting{closest(name, known, ENVIRONMENT_PREFIX)}")


def _parse(given: Any, kind: type, origin: str) -> object:
    """A value of a flag or variable, which is text, or of the file, which has its kind."""
    if kind is tuple:
        return tuple(Path(each) for each in given if str(each))
    if kind is bool:
        text = str(given).lower()
        if text not in ("true", "false"):
            raise ConfigError(f"{origin}: {given!r} is neither true nor false")
        return text == "true"
    if kind is int:
        try:
            return int(given)
        except ValueError:
            raise ConfigError(f"{origin}: {given!r} is not a whole number") from None
    if kind is Path:
        if not str(given):
            raise ConfigError(f"{origin}: empty, where a file is to be named")
        return Path(given)
    return str(given)
