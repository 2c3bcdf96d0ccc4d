"""``seqserve verify``: checksums, graph contract, golden inputs and a smoke decode of a bundle."""

import argparse
import sys
from pathlib import Path

from seqserve.bundle import BundleError
from seqserve.manifest import check_manifest
from seqserve_server.errors import ServerError
from seqserve_server.local import LocalModel
from seqserve_server.trial import try_bundle

ELSEWHERE = "; on the CPU only, and an fp16 bundle is made for CUDA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One positional argument."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="directory written by `seqserve export`")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per check. Returns 0 when all hold, else 1."""
    try:
        version = check_manifest(arguments.bundle)
        _say(f"checksums     ok, version {version}")
        # Without the refusal of precisions that the CPU does not serve: here nothing is served.
        with LocalModel.open(arguments.bundle, threads=1, verify=False) as local:
            description = local.description
            states = ", ".join(f"{state.name} x{state.count}" for state in description.states)
            _say(f"graphs        ok, {description.family} {description.precision}, states: {states}")
            cases, tokens = try_bundle(local)
            _say(f"golden inputs {f'ok, {cases}' if cases else 'none in this bundle'}")
            where = ELSEWHERE if description.precision == "fp16" else ""
            _say(f"smoke decode  ok, {tokens} tokens, the same alone and in a batch{where}")
    except (BundleError, ServerError) as error:
        print(f"seqserve verify: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
