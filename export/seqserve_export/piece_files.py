"""SentencePiece models beside vocabularies that are plain lists, as CTranslate2 and Argos Translate keep them."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from seqserve import bundle, marian_text
from seqserve.bundle import BundleError
from seqserve.marian_text import MarianSettings, MarianVocabulary
from seqserve.sentencepiece_file import read_model_file
from seqserve_export.errors import ExportError
from seqserve_export.tokenizer_files import Encoder, TokenizerFiles, open_pieces


@dataclass(frozen=True)
class PieceFiles(TokenizerFiles):
    """Written as the kind of tokenizer that Marian's is: pieces, looked up by their text in lists of their own.

    Attributes:
        source, target: The lists; of a token that is there twice, the first place is its id.
        source_pieces, target_pieces: SentencePiece models, whole: the files may be gone when they are written.
        settings: The tokens that are no content; vocabularies are always separate here.
        source_name: What errors call the source's model: the file it is from.
    """

    source: tuple[str, ...] = field(repr=False)
    target: tuple[str, ...] = field(repr=False)
    source_pieces: bytes = field(repr=False)
    target_pieces: bytes = field(repr=False)
    settings: MarianSettings
    source_name: str = "the source's SentencePiece model"

    @classmethod
    def read(
        cls, source: tuple[str, ...], target: tuple[str, ...], pieces: tuple[Path, Path], *,
        unk: str, eos: str, pad: str,
    ) -> "PieceFiles":
        """With the models of two files, which may be one and the same.

        Raises:
            ExportError: a damaged file, named.
        """
        try:
            models = [read_model_file(path, str(path)) for path in pieces]
        except BundleError as error:
            raise ExportError(str(error)) from None
        settings = MarianSettings(separate_vocabs=True, unk_token=unk, eos_token=eos, pad_token=pad)
        return cls(source, target, models[0], models[1], settings, str(pieces[0]))

    def write(self, directory: Path) -> None:
        """Both models, both vocabularies, and the tokens that are no content."""
        contents = {
            bundle.SOURCE_PIECES_FILE: self.source_pieces,
            bundle.TARGET_PIECES_FILE: self.target_pieces,
            bundle.SOURCE_VOCABULARY_FILE: _json(ids_of(self.source)),
            bundle.TARGET_VOCABULARY_FILE: _json(ids_of(self.target)),
            bundle.TOKENIZER_CONFIG_FILE: _json({"kind": marian_text.KIND, **dataclasses.asdict(self.settings)}),
        }
        (directory / bundle.TOKENIZER_CONFIG_FILE).parent.mkdir()
        for name, content in contents.items():
            (directory / name).write_bytes(content)

    def encoder(self) -> Encoder:
        """By the ``sentencepiece`` library."""
        pieces = open_pieces(self.source_pieces, self.source_name)
        vocabulary = MarianVocabulary(self.settings, ids_of(self.source), ids_of(self.target))
        return lambda text: vocabulary.ids(text, pieces)


def ids_of(tokens: tuple[str, ...]) -> dict[str, int]:
    """Ids by token; the first place wins."""
    return {token: number for number, token in reversed(list(enumerate(tokens)))}


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=0) + "\n").encode()
