"""The vocabularies of a CTranslate2 directory, read as CTranslate2 reads them."""

from dataclasses import dataclass
from pathlib import Path

from seqserve_export.errors import ExportError
from seqserve_export.families.vocabulary import read_list

SUFFIXES = (".json", ".txt")
SHARED, SOURCE, TARGET = "shared_vocabulary", "source_vocabulary", "target_vocabulary"
# With source factors the files are numbered, and one alone may be too.
FIRST_SOURCE, SECOND_SOURCE = "source_1_vocabulary", "source_2_vocabulary"
NAMES = (SHARED, SOURCE, TARGET, FIRST_SOURCE, "vocabulary")  # the last one is of models that are not supported


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order, from ``file``; ``unk`` is among them unless the model has no row for it."""

    file: Path
    tokens: tuple[str, ...]
    unk: str

    def find(self, token: str) -> int | None:
        """The id of a token; of one that is there twice the first, as in CTranslate2."""
        return self.tokens.index(token) if token in self.tokens else None

    def id_of(self, token: str, what: str) -> int:
        """The id of a special token, which must be there.

        Raises:
            ExportError: it is not; CTranslate2 would take the unknown token for it.
        """
        found = self.find(token)
        if found is None:
            raise ExportError(f"{self.file}: has no {token!r}, the model's {what}")
        return found

    def fit(self, rows: int) -> "Vocabulary":
        """The vocabulary of an embedding with so many rows.

        An unknown token that CTranslate2 appends has a row in some models. In others it has none, and CTranslate2
        fails where it meets one; here there is then no such token.

        Raises:
            ExportError: another number of tokens.
        """
        if len(self.tokens) == rows:
            return self
        if len(self.tokens) == rows + 1 and self.tokens[-1] == self.unk:
            return Vocabulary(self.file, self.tokens[:-1], self.unk)
        raise ExportError(f"{self.file}: {len(self.tokens)} tokens, but the embedding has {rows} rows")

    def with_start(self) -> "Vocabulary":
        """One more token at the end, which stands for decoding's start where that is no token of the model."""
        name = "<pad>"
        while name in self.tokens:
            name = f"<{name}>"
        return Vocabulary(self.file, (*self.tokens, name), self.unk)


def find_file(directory: Path, name: str) -> Path | None:
    """A vocabulary's file; JSON comes first, as in CTranslate2."""
    files = (directory / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def read_vocabularies(directory: Path, unk: str) -> tuple[Vocabulary, Vocabulary]:
    """The source's and the target's vocabulary, which are the same object where there is one file.

    Raises:
        ExportError: no such files, one that cannot be read, or source factors.
    """
    shared = find_file(directory, SHARED)
    if shared is not None:
        both = _read(shared, unk)
        return both, both
    if find_file(directory, SECOND_SOURCE) is not None:
        raise ExportError(f"{directory}: not supported: source factors ({SECOND_SOURCE})")
    source = find_file(directory, SOURCE) or find_file(directory, FIRST_SOURCE)
    target = find_file(directory, TARGET)
    if source is None or target is None:
        missing = SOURCE if source is None else TARGET
        raise ExportError(f"{directory}: no vocabulary: neither {SHARED} nor {missing}, as .json or .txt")
    return _read(source, unk), _read(target, unk)


def _read(file: Path, unk: str) -> Vocabulary:
    tokens = read_list(file)
    return Vocabulary(file, tokens if unk in tokens else (*tokens, unk), unk)
