"""``seqserve serve``: hands over to ``seqserve_server``."""

import argparse
import os

DESCRIPTION = """\
Serve model bundles over gRPC. Prints one line with the ports once the models are loaded and warm; port 0 picks a free
one. Stops on SIGTERM or Ctrl-C after the running requests have ended.

examples:
  seqserve serve bundle/
  seqserve serve bundle/ --host 0.0.0.0 --port 0 --metrics-port 0"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    # Before gRPC is loaded, which reads it then: its native part logs bytes of hostile connections as they are.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from seqserve_server import command

    command.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from seqserve_server import command

    return int(command.run(options))
