"""Vocabularies beside a checkpoint's weights: a JSON list of tokens in id order, or a text of one token a line."""

from dataclasses import dataclass, field
from pathlib import Path

from seqserve.bundle import BundleError
from seqserve.whole_files import read_bytes, read_entries
from seqserve.word_text import repeated
from seqserve_export.errors import ExportError


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order, from ``file``."""

    file: Path
    tokens: tuple[str, ...] = field(repr=False)

    def id_of(self, token: str) -> int:
        """The id of a special token, which must be there."""
        if token not in self.tokens:
            raise ExportError(f"{self.file}: has no {token}")
        return self.tokens.index(token)


def read_list(file: Path) -> tuple[str, ...]:
    """A ``.json`` file as a list of tokens, any other as a text of one token a line.

    Raises:
        ExportError: naming the file and what is wrong with it.
    """
    try:
        if file.suffix == ".json":
            return read_entries(file, str(file))
        return tuple(_lines(read_bytes(file, str(file)).decode("utf-8")))
    except BundleError as error:
        raise ExportError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ExportError(f"{file}: not a vocabulary: {error}") from None


def _lines(text: str) -> list[str]:
    """Lines, without carriage returns where all have one: a token may end with one, and hold any other line end."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line[:-1] for line in lines] if all(line.endswith("\r") for line in lines) else lines


def read_vocabulary(file: Path) -> Vocabulary:
    """A vocabulary in which no token is there twice.

    Raises:
        ExportError: naming the file and what is wrong with it.
    """
    tokens = read_list(file)
    if (twice := repeated(tokens)) is not None:
        raise ExportError(f"{file}: {twice!r} is there more than once")
    return Vocabulary(file, tokens)
