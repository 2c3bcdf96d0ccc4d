"""A checkpoint's tokenizer: its files, checked, copied into the bundle, and used where the proof reads sentences."""

import dataclasses
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from seqserve import bundle, marian_text
from seqserve.bundle import BundleError
from seqserve.marian_text import MarianSettings, MarianVocabulary
from seqserve.sentencepiece_file import read_model_file
from seqserve_export.errors import ExportError
from seqserve_export.model import CanonicalConfig

SETTINGS_FILE = "tokenizer_config.json"

Encoder = Callable[[str], list[int]]


def token_text(token: object) -> object:
    """A token of tokenizer_config.json, where older versions wrote an object with its text."""
    return token.get("content") if isinstance(token, dict) else token


def check_end(shown: str, token: str, token_id: int | None, config: CanonicalConfig) -> None:
    """The tokenizer ends sources and the model answers: they have to mean the same.

    Raises:
        ExportError: a line that begins with ``shown`` and names both ids.
    """
    if token_id != config.eos_id:
        raise ExportError(f"{shown}: {token} has id {token_id}, but the model's eos_token_id is {config.eos_id}")


def open_pieces(data: bytes, shown: str) -> Callable[[str], list[str]]:
    """What cuts texts into the pieces of a SentencePiece model.

    Raises:
        ExportError: a line that begins with ``shown``.
        ImportError: the library is not installed.
    """
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
        raise ExportError(f"{shown}: not a usable SentencePiece model: {error}".splitlines()[0]) from None
    return lambda text: list(processor.Encode(text, out_type=str))


class TokenizerFiles(ABC):
    """What of a checkpoint directory becomes the bundle's ``tokenizer/``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """One line each: what the source's tokenizer does that this one does not."""
        return ()

    @abstractmethod
    def write(self, directory: Path) -> None:
        """Make ``tokenizer/`` in a bundle that has none yet."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """Text to ids without special tokens, as the server will do it.

        Raises:
            ImportError: the library is not installed; exporting alone does not need it.
        """


@dataclass(frozen=True)
class HubFile(TokenizerFiles):
    """One ``tokenizer.json`` for both sides.

    Attributes:
        unknown_id: The id of the unknown token, if there is one.
        content: The file, where it was made of others; ``path`` is then the first of these.
    """

    path: Path
    unknown_id: int | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    content: str | None = field(default=None, compare=False, repr=False)

    def write(self, directory: Path) -> None:
        """Copy it, or write it for the first time."""
        target = directory / bundle.TOKENIZER_FILE
        target.parent.mkdir()
        if self.content is None:
            shutil.copyfile(self.path, target)
        else:
            target.write_text(self.content, encoding="utf-8")

    def encoder(self) -> Encoder:
        """By the ``tokenizers`` library."""
        from tokenizers import Tokenizer

        try:
            if self.content is None:
                tokenizer = Tokenizer.from_file(str(self.path))
            else:
                tokenizer = Tokenizer.from_str(self.content)
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise ExportError(f"{self.path}: not a usable tokenizer: {error}") from None
        tokenizer.no_truncation()  # as the server does
        tokenizer.no_padding()
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(frozen=True)
class MarianFiles(TokenizerFiles):
    """Two SentencePiece models, and one vocabulary or two."""

    directory: Path
    vocabulary: MarianVocabulary

    @classmethod
    def read(cls, directory: Path, config: CanonicalConfig) -> "MarianFiles":
        """Check the files of a Marian directory against one another and against the model.

        Raises:
            ExportError: naming the file and what is wrong with it.
        """
        shown = f"{directory}/"
        try:
            settings = MarianSettings.read(directory / marian_text.SETTINGS, f"{shown}{marian_text.SETTINGS}")
            vocabulary = MarianVocabulary.read(directory, shown, settings)
            for name in (marian_text.SOURCE_PIECES, marian_text.TARGET_PIECES):
                read_model_file(directory / name, f"{shown}{name}")
            vocabulary.check_sizes(config.source_vocab_size, config.target_vocab_size, shown)
        except BundleError as error:
            raise ExportError(str(error)) from None
        end = vocabulary.source.get(settings.eos_token)
        check_end(f"{shown}{marian_text.SOURCE_VOCABULARY}", settings.eos_token, end, config)
        return cls(directory, vocabulary)

    @property
    def unknown_id(self) -> int:
        """The source's unknown token."""
        return self.vocabulary.source[self.vocabulary.settings.unk_token]

    def write(self, directory: Path) -> None:
        """Copy the files, and write what of the settings serving needs."""
        names = [bundle.SOURCE_PIECES_FILE, bundle.TARGET_PIECES_FILE, bundle.SOURCE_VOCABULARY_FILE]
        if self.vocabulary.settings.separate_vocabs:
            names.append(bundle.TARGET_VOCABULARY_FILE)
        (directory / names[0]).parent.mkdir()
        for name in names:
            shutil.copyfile(self.directory / Path(name).name, directory / name)
        settings = {"kind": marian_text.KIND, **dataclasses.asdict(self.vocabulary.settings)}
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        (directory / bundle.TOKENIZER_CONFIG_FILE).write_text(text, encoding="utf-8")

    def encoder(self) -> Encoder:
        """By the ``sentencepiece`` library."""
        path = self.directory / marian_text.SOURCE_PIECES
        pieces = open_pieces(read_model_file(path, str(path)), str(path))
        return lambda text: self.vocabulary.ids(text, pieces)
