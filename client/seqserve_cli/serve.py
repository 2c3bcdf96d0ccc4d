"""``seqserve serve``: hands over to ``seqserve_server``."""

import argparse
import os

DESCRIPTION = """\
Serve model bundles over gRPC. Prints one line with the ports once the models are loaded and warm; port 0 picks a free
one. Stops on SIGTERM or Ctrl-C after the running requests have ended.

Several bundles may be given, and directories that hold them: MODEL/, or MODEL/VERSION/ with whole numbers, of which the
highest is served. On SIGHUP, and with --watch-seconds by itself, it looks again: what has changed is tried in a process
of its own, loaded beside the old version, and takes its place; what cannot be served leaves all as it is. Replace
bundles by new directories or by turning a link: do not write into one that is served.

examples:
  seqserve serve bundle/
  seqserve serve models/ --default-model en-de --watch-seconds 10
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
