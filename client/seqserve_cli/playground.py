"""``seqserve playground``."""

import argparse
import asyncio
from typing import Any

from seqserve_cli import exits, remote
from seqserve_client import AsyncClient

DESCRIPTION = """\
Serve a web page on this machine in front of a server: type a sentence, watch the answer stream in, see which source
tokens each token attended to, how probable it was, and what else could have come in its place.

The page listens on loopback only and has no password. The server need not run yet: the page says so, and notices when
it comes, goes, or changes its model. Ctrl-C ends it.

examples:
  seqserve playground
  seqserve playground --target host:50051 --tls --token-file token --port 8000"""
METRICS_PORT = 9090


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    remote.add_target(parser)
    remote.add_security(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST",
                        help="loopback address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=7860, metavar="PORT",
                        help="port to listen on; 0 picks a free one (default: %(default)s)")
    parser.add_argument("--metrics-target", metavar="HOST:PORT",
                        help=f"the server's metrics (default: port {METRICS_PORT} of the target's host)")
    remote.add_timeout(parser, 60)


def port(text: str) -> int:
    """Argument type: 0 to 65535."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {text}")
    return value


def metrics_target(target: str, given: str | None) -> str:
    """HOST:PORT of the metrics; by default beside the server, whose target may be a gRPC name such as dns:///a:1."""
    if given is not None:
        if not all(given.rpartition(":")[::2]) or "/" in given:
            raise exits.CommandError(f"--metrics-target: {given!r} is not HOST:PORT", exits.USAGE)
        return given
    host, _, digits = target.rpartition("/")[2].rpartition(":")
    return f"{host if digits.isdigit() and host else '127.0.0.1'}:{METRICS_PORT}"


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    security = remote.security(options)
    metrics = metrics_target(options.target, options.metrics_target)
    asyncio.run(_serve(options, security, metrics))
    return exits.OK


async def _serve(options: argparse.Namespace, security: dict[str, Any], metrics: str) -> None:
    from seqserve_playground import web_server  # here: --help needs none of its packages
    from seqserve_playground.live_metrics import LiveMetrics

    try:
        listening = web_server.listen(options.host, options.port)
    except ValueError as error:
        raise exits.CommandError(f"--host: {error}", exits.USAGE) from error
    except OSError as error:
        raise exits.CommandError(f"cannot listen on {options.host}:{options.port}: {error.strerror}") from error
    with listening:
        address = web_server.address_of(listening)

        def ready() -> None:
            print(f"ready playground={address} target={options.target}", flush=True)

        async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:
            await web_server.serve(client, options.target, LiveMetrics(metrics), listening, ready)
