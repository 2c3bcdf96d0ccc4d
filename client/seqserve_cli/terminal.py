"""What standard output is: a terminal or not, how wide, and whether colours are wanted."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from seqserve_cli import cells

RESET = "\033[0m"


def drawn_on() -> bool:
    """Whether standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def safe(text: str) -> str:
    """Where a terminal is to show it, without what would give it orders; anything else gets the text as it is."""
    return cells.visible(text, cells.KEPT) if sys.stdout.isatty() else text


def columns() -> int:
    """The terminal's width now; COLUMNS, where it is set, says otherwise."""
    return shutil.get_terminal_size().columns


def add_color(parser: argparse._ActionsContainer) -> None:
    """The ``--color`` option."""
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto",
        help="colours; auto: in a terminal, unless NO_COLOR is set (default: %(default)s)",
    )


def coloured(choice: str) -> bool:
    """What ``--color`` comes to; NO_COLOR is that of no-color.org, set to anything but the empty text."""
    return choice == "always" or (choice == "auto" and drawn_on() and not os.environ.get("NO_COLOR"))


@contextmanager
def colours_reset(choice: str) -> Iterator[None]:
    """An interrupt in the middle of a coloured line leaves the terminal as it was."""
    try:
        yield
    except KeyboardInterrupt:
        if coloured(choice) and drawn_on():
            sys.stdout.write(RESET)
            sys.stdout.flush()
        raise
