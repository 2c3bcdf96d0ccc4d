"""Vocabularies of whole words beside a checkpoint's weights: a JSON list in id order, or one token a line."""

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


def read_vocabulary(file: Path) -> Vocabulary:
    """A ``.json`` file as a list of tokens, any other as a text of one token a line.

    Raises:
        ExportError: naming the file and what is wrong with it.
    """
    try:
        if file.suffix == ".json":
            tokens = read_entries(file, str(file))
        else:
            text = read_bytes(file, str(file)).decode("utf-8").replace("\r\n", "\n")
            # Not splitlines: a token may hold one of the rarer line ends.
            tokens = tuple(text.removesuffix("\n").split("\n"))
    except BundleError as error:
        raise ExportError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ExportError(f"{file}: cannot be read: {error}") from None
    if (twice := repeated(tokens)) is not None:
        raise ExportError(f"{file}: {twice!r} is there more than once")
    return Vocabulary(file, tokens)
