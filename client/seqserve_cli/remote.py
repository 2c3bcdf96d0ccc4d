"""What the commands that talk to a server share: the address, the timeout, and errors as one line."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqserve_cli import exits
from seqserve_client import SeqserveError, Tls, Unavailable
from seqserve_client.channel import DEFAULT_TARGET
from seqserve_client.security import check_token

# gRPC's core notes what it does, such as that a server goes away, in the middle of what the terminal shows; here errors
# come as one line. Read when the first channel is made.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

TOKEN_VARIABLE = "SEQSERVE_TOKEN"  # noqa: S105


def add_target(parser: argparse._ActionsContainer) -> None:
    """The ``--target`` option."""
    parser.add_argument(
        "--target", default=DEFAULT_TARGET, metavar="HOST:PORT", help="address of the server (default: %(default)s)"
    )


def add_security(parser: argparse.ArgumentParser) -> None:
    """The options of TLS and of tokens, in a group of their own."""
    group = parser.add_argument_group("secured servers")
    group.add_argument("--tls", action="store_true", help="connect with TLS; implied by the three below")
    group.add_argument("--tls-ca", type=Path, metavar="FILE",
                       help="PEM file of authorities to believe (default: the public ones)")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM file with a certificate of your own (mTLS)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file with its private key")
    token = group.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="file with the bearer token")
    token.add_argument("--token", metavar="TOKEN", help="the bearer token, which the list of processes shows to others "
                       f"[{TOKEN_VARIABLE}, which it does not]")


def security(options: argparse.Namespace) -> dict[str, Any]:
    """``tls`` and ``token`` for a client; files are read here, so that what is wrong with them is a matter of usage."""
    try:
        files = options.tls_ca, options.tls_cert, options.tls_key
        tls = Tls(*files) if options.tls or any(files) else None
        if tls is not None:
            tls.credentials()
        token = options.token
        if options.token_file is not None:
            token = options.token_file.read_text(encoding="ascii").strip()
        elif token is None:
            token = os.environ.get(TOKEN_VARIABLE)
        check_token(token)
    except OSError as error:
        raise exits.CommandError(f"cannot read {error.filename}: {error.strerror}", exits.USAGE) from error
    except UnicodeDecodeError as error:
        raise exits.CommandError(f"{options.token_file} holds no token", exits.USAGE) from error
    except ValueError as error:
        raise exits.CommandError(str(error), exits.USAGE) from error
    return {"tls": tls, "token": token}


def add_languages(parser: argparse._ActionsContainer) -> None:
    """The ``--source-language`` and ``--target-language`` options."""
    parser.add_argument("--source-language", metavar="CODE", help="of the texts, where a model has several")
    parser.add_argument("--target-language", metavar="CODE", help="to generate, where a model has several")


def add_lengths(parser: argparse._ActionsContainer) -> None:
    """The ``--max-new-tokens`` and ``--min-new-tokens`` options."""
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N",
        help="most generated tokens, the end token included (default: the model's)",
    )
    parser.add_argument(
        "--min-new-tokens", type=int, metavar="N",
        help="generated tokens before the model may end (default: the model's)",
    )


def add_turn(parser: argparse._ActionsContainer) -> None:
    """The ``--priority`` and ``--tenant`` options."""
    parser.add_argument(
        "--priority", type=int, metavar="N",
        help="requests of a higher one go first among those that wait, from -10 to 10 (default: 0)",
    )
    parser.add_argument(
        "--tenant", metavar="NAME", help="on whose account this goes, where a server is shared between several"
    )


def add_beam_size(parser: argparse._ActionsContainer) -> None:
    """The ``--beam-size`` option."""
    parser.add_argument(
        "--beam-size", type=int, metavar="N",
        help="hypotheses that are kept at every step; 1 is greedy (default: the model's)",
    )


def add_timeout(parser: argparse.ArgumentParser, default: float) -> None:
    """The ``--timeout`` option; 0 stands for none."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=default,
        metavar="S",
        help="seconds for one call; 0 waits for ever (default: %(default)g)",
    )


def seconds(text: str) -> float:
    """A number of seconds, at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text}")
    return value


def at_least(minimum: int) -> Callable[[str], int]:
    """Argument type: an integer with a lower bound."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {text}")
        return value

    return integer


@contextmanager
def errors_as_one_line(target: str) -> Iterator[None]:
    """Turn the client's errors into ``CommandError`` with the right exit code."""
    try:
        yield
    except Unavailable as error:
        raise exits.CommandError(f"cannot reach a server at {target}: {error}", exits.UNREACHABLE) from error
    except SeqserveError as error:
        raise exits.CommandError(f"{error.code.name}: {error}") from error
