"""``seqserve health``."""

import argparse

from seqserve_cli import exits, remote
from seqserve_client import Client, DeadlineExceeded

DESCRIPTION = """\
Ask a server whether it is serving (grpc.health.v1).
Exit codes: 0 serving, 1 reached but not serving (loading or draining), 3 unreachable.

examples:
  seqserve health
  until seqserve health --target 127.0.0.1:50051; do sleep 1; done"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    remote.add_target(parser)
    remote.add_security(parser)
    remote.add_timeout(parser, 5)
    parser.add_argument(
        "--service", default="", help="ask about one service, such as seqserve.v1.Seq2SeqService (default: the server)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    security = remote.security(options)
    with remote.errors_as_one_line(options.target), Client(options.target, **security) as client:
        try:
            serving = client.health(options.service, timeout=options.timeout or None)
        except DeadlineExceeded as error:
            message = f"cannot reach a server at {options.target}: no answer within {options.timeout:g} s"
            raise exits.CommandError(message, exits.UNREACHABLE) from error
    print("SERVING" if serving else "NOT_SERVING")
    return exits.OK if serving else exits.FAILURE
