"""A checkpoint whose vocabularies are lists of whole words, or of pieces that callers make themselves."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from seqserve import bundle
from seqserve.bundle import BundleError
from seqserve.word_text import WHITESPACE, WordVocabulary
from seqserve_export.errors import ExportError
from seqserve_export.tokenizer_files import Encoder, TokenizerFiles


@dataclass(frozen=True)
class WordFiles(TokenizerFiles):
    """Two vocabularies in id order; texts are split, looked up, and joined with single spaces.

    Attributes:
        unk_token: The source entry for words that are not there; None refuses texts with such words.
        special_tokens: Target entries that texts of answers leave out.
        split: Where texts are split: at "whitespace", or at "spaces" only.
        source_name, target_name: What errors call the vocabularies: the files they come from.
    """

    source: tuple[str, ...] = field(repr=False)
    target: tuple[str, ...] = field(repr=False)
    unk_token: str | None = None
    special_tokens: tuple[str, ...] = ()
    split: str = WHITESPACE
    source_name: str = "the source vocabulary"
    target_name: str = "the target vocabulary"

    def check(self, source_size: int, target_size: int) -> "WordFiles":
        """Itself, once every row of the model's embeddings has one entry, and none is there twice.

        Raises:
            ExportError: naming the file and what is wrong with it.
        """
        try:
            self.vocabulary.check(source_size, target_size, self.source_name, self.target_name)
        except BundleError as error:
            raise ExportError(str(error)) from None
        return self

    @property
    def vocabulary(self) -> WordVocabulary:
        """What the server will read."""
        return WordVocabulary(self.source, self.target, self.unk_token, self.special_tokens, self.split)

    def write(self, directory: Path) -> None:
        """Both vocabularies as lists, and how they are used."""
        contents = (
            (bundle.TOKENIZER_CONFIG_FILE, self.vocabulary.settings()),
            (bundle.SOURCE_VOCABULARY_FILE, self.source), (bundle.TARGET_VOCABULARY_FILE, self.target),
        )
        (directory / bundle.TOKENIZER_CONFIG_FILE).parent.mkdir()
        for name, content in contents:
            text = json.dumps(content, ensure_ascii=False, indent=0 if isinstance(content, tuple) else 1)
            (directory / name).write_text(text + "\n", encoding="utf-8")

    def encoder(self) -> Encoder:
        """By the standard library alone."""
        return self.vocabulary.encode
