"""The tokenizer of an M2M100 directory: one SentencePiece model, whose pieces vocab.json numbers."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqserve import bundle, m2m100_text
from seqserve.bundle import BundleError
from seqserve.m2m100_text import M2M100Vocabulary
from seqserve.sentencepiece_file import read_model_file
from seqserve.whole_files import read_vocabulary
from seqserve_export.errors import ExportError
from seqserve_export.model import TransformerConfig
from seqserve_export.sentencepiece_files import FAIRSEQ_FILE as PIECES_FILE
from seqserve_export.tokenizer_files import Encoder, TokenizerFiles, check_end, open_pieces, token_text


@dataclass(frozen=True)
class M2M100Files(TokenizerFiles):
    """Checked files of a directory."""

    directory: Path
    vocabulary: M2M100Vocabulary

    @classmethod
    def read(
        cls, directory: Path, settings: Mapping[str, Any], languages: Mapping[str, int], config: TransformerConfig
    ) -> "M2M100Files":
        """Check the files against one another and against the model.

        Args:
            settings: tokenizer_config.json.
            languages: Ids by code.

        Raises:
            ExportError: naming the file and what is wrong with it.
        """
        path = directory / m2m100_text.VOCABULARY
        tokens = {f"__{code}__": number for code, number in languages.items()}
        try:
            entries = read_vocabulary(path, str(path))
            special = {
                name: str(token_text(settings.get(name)) or token) for name, token in m2m100_text.SPECIAL.items()
            }
            if missing := [token for token in special.values() if token not in entries]:
                raise ExportError(f"{path}: has no {', '.join(missing)}")
            extra = settings.get("extra_special_tokens") or []
            extra = extra.values() if isinstance(extra, dict) else extra  # transformers 5 may name them
            listed = [*extra, *(settings.get("additional_special_tokens") or [])]
            texts = [token for token in map(token_text, listed) if isinstance(token, str)]
            known = dict.fromkeys([*special.values(), *(token for token in texts if token in tokens)])
            vocabulary = M2M100Vocabulary(entries, tokens, tuple(known), special["unk_token"])
            vocabulary.check_size(config.source_vocab_size, str(path))
            read_model_file(directory / PIECES_FILE, str(directory / PIECES_FILE))
        except BundleError as error:
            raise ExportError(str(error)) from None
        check_end(str(path), special["eos_token"], entries[special["eos_token"]], config)
        return cls(directory, vocabulary)

    @property
    def unknown_id(self) -> int:
        """The unknown token."""
        return self.vocabulary.entries[self.vocabulary.unk_token]

    def write(self, directory: Path) -> None:
        """Copy the files, and write what of the settings serving needs."""
        for name, target in (
            (PIECES_FILE, bundle.SOURCE_PIECES_FILE), (m2m100_text.VOCABULARY, bundle.SOURCE_VOCABULARY_FILE),
        ):
            (directory / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.directory / name, directory / target)
        text = json.dumps(self.vocabulary.settings, indent=1, sort_keys=True) + "\n"
        (directory / bundle.TOKENIZER_CONFIG_FILE).write_text(text, encoding="utf-8")

    def encoder(self) -> Encoder:
        """By the ``sentencepiece`` library."""
        path = self.directory / PIECES_FILE
        pieces = open_pieces(read_model_file(path, str(path)), str(path))
        return lambda text: self.vocabulary.ids(text, pieces)
