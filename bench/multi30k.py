"""Test sentences, and how far along a long command is."""

import gzip
import sys
from pathlib import Path

TEST = "test_2016_flickr"


def sentences(folder: Path, language: str, split: str = TEST) -> list[str]:
    """The lines of a split.

    Raises:
        FileNotFoundError: neither the file nor its gzip form is in the folder.
    """
    plain = folder / f"{split}.{language}"
    if plain.is_file():
        return plain.read_text(encoding="utf-8").splitlines()
    with gzip.open(f"{plain}.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def show_progress(what: str, done: int, total: int) -> None:
    """One line that rewrites itself, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
