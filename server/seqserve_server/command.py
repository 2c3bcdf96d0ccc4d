"""``seqserve serve``: flags to a running server."""

import argparse
import asyncio
import logging
import sys

from seqserve.bundle import BundleError
from seqserve_server.config import add_arguments, resolve
from seqserve_server.errors import StartupError
from seqserve_server.server import serve

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop. Returns 0, or 1 with one line on stderr when the server cannot start or dies."""
    try:
        config = resolve(vars(arguments))
        logging.basicConfig(
            level=config.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
        print(f"configuration {config.describe()}", file=sys.stderr, flush=True)  # noqa: T201
        return asyncio.run(serve(config, lambda line: print(line, flush=True)))  # noqa: T201
    except (StartupError, BundleError) as error:
        print(f"seqserve serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
