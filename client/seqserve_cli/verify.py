"""``seqserve verify``: hands over to ``seqserve_server``."""

import argparse

DESCRIPTION = """\
Check a model bundle before it is served: every file against the manifest's checksums, the graphs against model.json,
golden inputs against the answers kept with them, and a smoke decode.

example:
  seqserve verify bundle/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from seqserve_server import verify_command

    verify_command.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from seqserve_server import verify_command

    return int(verify_command.run(options))
