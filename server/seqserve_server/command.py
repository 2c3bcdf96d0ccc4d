"""``seqserve serve``: flags to a running server."""

import argparse
import contextlib
import logging
import sys

from seqserve.bundle import BundleError
from seqserve_server import allocator, event_loop, garbage
from seqserve_server.config import add_arguments, resolve
from seqserve_server.errors import ConfigError, StartupError
from seqserve_server.log_lines import configure
from seqserve_server.server import serve
from seqserve_server.startup_checks import check_process

__all__ = ["add_arguments", "run"]
logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop. Returns 0, or one line on stderr and 2 for a wrong value, 1 for whatever else."""
    try:
        config = resolve(vars(arguments))
        configure(config.log_level, config.log_format)
        if config.log_format == "json":  # every line of it is an object
            logger.info("configuration", extra={"fields": config.described()})
        else:
            with contextlib.suppress(OSError):  # a log that cannot be written costs its lines, and no more
                print(f"configuration {config.describe()}", file=sys.stderr, flush=True)  # noqa: T201
        check_process()
        allocator.bound_arenas()
        return event_loop.run(serve(config, _announce))
    except (StartupError, BundleError) as error:
        print(f"seqserve serve: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError) else 1


def _announce(ready: str) -> None:
    garbage.settle()  # models are loaded; before the line, for it holds up whoever is served
    print(ready, flush=True)  # noqa: T201
