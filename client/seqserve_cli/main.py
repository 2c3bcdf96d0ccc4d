"""Entry point: find the command, import its module alone, and turn every failure into one line and an exit code.

Only the chosen command's module is imported, so ``seqserve --help`` needs nothing but the standard library, and no
command needs another one's packages.
"""

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from seqserve_cli import exits
from seqserve_cli.help_text import Paragraphs


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand. ``extras`` name what it needs beyond the base install."""

    name: str
    summary: str
    extras: str = ""

    def load(self) -> ModuleType:
        """The module, with ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(options) -> int``."""
        return importlib.import_module(f"seqserve_cli.{self.name}")


COMMANDS = (
    Command("export", "turn a checkpoint into a model bundle, and prove that it computes the same", "export,server"),
    Command("verify", "check a bundle: checksums, graphs, a smoke decode", "server"),
    Command("serve", "serve bundles over gRPC", "server"),
    Command("generate", "generate from texts: arguments or stdin lines in, one line out for each", "server"),
    Command("score", "print what a model thinks of given targets: source and target in, one line out", "server"),
    Command("align", "show which source tokens a target attends to, as a picture, text or numbers", "server,plot"),
    Command("tokenize", "print the token ids of texts, or the texts of token ids"),
    Command("info", "show the models of a server, with their limits"),
    Command("health", "exit with 0 only when a server is serving"),
    Command("playground", "serve a web page on this machine to try a server out", "playground"),
    Command("bench", "measure a server under load", "bench"),
)
DESCRIPTION = """\
Inference server for pretrained encoder-decoder Transformers: from a checkpoint to a model bundle, to a gRPC server
with continuous batching, to a client."""
EPILOG = """\
from a checkpoint to a translation:
  seqserve export demo/en-de bundle/
  seqserve serve bundle/
  echo "A man is riding a horse." | seqserve generate

exit codes: 0 ok, 1 failure, 2 usage, 3 server unreachable

`seqserve COMMAND --help` tells more about each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, except for usage errors and --help, which exit as argparse does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    command = next((each for each in COMMANDS if each.name == chosen), None)
    try:
        parser, run, flags = _parser(command)
        options, unknown = parser.parse_known_args(words)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{_closest(unknown[0], flags)}")
        if run is None:
            parser.print_help(sys.stderr)
            return exits.USAGE
        code = int(run(options))
        sys.stdout.flush()
        return code
    except exits.CommandError as error:
        print(f"seqserve: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `head` does. The interpreter flushes stdout once more at exit; give that
        # a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return exits.BROKEN_PIPE
    except UnicodeEncodeError as error:
        print(f"seqserve: {_said_of(error)}", file=sys.stderr)
        return exits.FAILURE
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if command is None or not command.extras or package.startswith("seqserve"):
            raise  # a defect of ours, not a missing package
        print(
            f"seqserve: {command.name} needs the package {package!r}: pip install 'seqserve[{command.extras}]'",
            file=sys.stderr,
        )
        return exits.FAILURE


def _said_of(error: UnicodeEncodeError) -> str:
    """What to do about a letter that cannot be sent or shown."""
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":  # Python's stand-ins for bytes of arguments
        return f"an argument is not UTF-8: it holds the byte 0x{ord(letter) - 0xDC00:02x}"
    return f"this output's encoding, {error.encoding}, lacks {letter!a}; PYTHONIOENCODING=utf-8 chooses another"


def _closest(unknown: str, flags: Sequence[str]) -> str:
    """The end of a message about an unknown flag: the known one that was probably meant, if any resembles it."""
    found = difflib.get_close_matches(unknown.partition("=")[0], flags, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _parser(command: Command | None) -> tuple[argparse.ArgumentParser, Any, list[str]]:
    """The parser, with the arguments of the chosen command only, that command's ``run``, and its flags."""
    parser = argparse.ArgumentParser(
        prog="seqserve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    run, flags = None, []
    for each in COMMANDS:
        module = each.load() if each is command else None
        subparser = commands.add_parser(
            each.name,
            help=each.summary,
            description=module.DESCRIPTION if module else None,
            formatter_class=Paragraphs,
            allow_abbrev=False,
        )
        if module:
            module.add_arguments(subparser)
            run, flags = module.run, re.findall(r"--[a-z][a-z0-9-]*", subparser.format_usage())
    return parser, run, flags


class _Version(argparse.Action):
    """Looks the version up only when asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_unused: Any) -> None:
        from seqserve import __version__

        print(f"seqserve {__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
