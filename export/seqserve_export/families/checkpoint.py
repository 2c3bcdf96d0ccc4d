"""What every family hands to the exporter, and what the exporter asks of a family."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve.framing import Place
from seqserve.search_defaults import SearchDefaults
from seqserve_export.errors import ExportError
from seqserve_export.families.files import weights_file
from seqserve_export.model import CanonicalModel, Transformer
from seqserve_export.tokenizer_files import TokenizerFiles


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint on the canonical model, with what serving needs to know besides the weights.

    Attributes:
        model: In eval mode, float32, frozen. Its configuration holds the pad, end and decoder start ids.
        source_prefix, source_suffix, decoder_prompt: Ids, or words for languages (``seqserve.framing``), around the
            content of every source and before every target; an empty prompt is the decoder start token alone.
        languages: Their ids by code, for families that have several; with the defaults of the source.
        forced_end: Whether the last token that a limit allows is the end token.
        unk_id: The source's id of unknown content, if there is one.
        default_max_new_tokens, default_min_new_tokens: Generated tokens, the end token included, start tokens not.
        search: How requests are decoded that do not say, as the source's own library would; the proof stays greedy.
        alignment: The decoder layer and the heads, from 0, whose attention the source takes for the alignment; None
            where it does not say.
        tokenizer: The files for the bundle's ``tokenizer/``, or None (the bundle then takes and returns ids).
        no_tokenizer: Why there is none, the begin of a sentence.
        provenance: What the bundle says about its origin: source class, SHA-256 of the files, generation settings.
        notes: One line each: what the source does that the bundle does not, its tokenizer apart.
    """

    family: str
    model: CanonicalModel
    source_prefix: tuple[Place, ...]
    source_suffix: tuple[Place, ...]
    decoder_prompt: tuple[Place, ...] = ()
    languages: dict[str, int] = field(default_factory=dict)
    default_source_language: str | None = None
    default_target_language: str | None = None
    forced_end: bool = False
    unk_id: int | None
    default_max_new_tokens: int
    default_min_new_tokens: int = 0
    search: SearchDefaults = field(default_factory=SearchDefaults)
    alignment: tuple[int, tuple[int, ...]] | None = None
    tokenizer: TokenizerFiles | None = None
    no_tokenizer: str = "no tokenizer in the checkpoint"
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def transformer(self) -> Transformer:
        """The model, of a family of Transformers."""
        if not isinstance(self.model, Transformer):
            raise AssertionError(f"the family {self.family} has no Transformers")
        return self.model

    @property
    def all_notes(self) -> tuple[str, ...]:
        """``notes``, and those of the tokenizer, or that there is none."""
        if self.tokenizer is not None:
            return (*self.notes, *self.tokenizer.notes)
        return (*self.notes, f"{self.no_tokenizer}: the bundle takes and returns token ids")


# Where a checkpoint has no limit. Its library may have one: of the 20 of transformers.generate, few answers would come
# to their end.
DEFAULT_MAX_NEW_TOKENS = 256
LONGEST = 1 << 16  # tokens that a limit given by hand may allow; attention over more would not fit a machine


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What only the caller can say of a checkpoint; None where nothing was said.

    Attributes:
        heads: The head count, where neither shapes nor settings tell it.
        positions: "true", or "book": every generated token at position 0.
        max_source_length, max_target_length: Limits in tokens, special ones included, of families whose models have
            none of their own.
        pad_sources: The encoder reads on over padding up to so many tokens.
    """

    heads: int | None = None
    positions: str | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    pad_sources: int | None = None


NOTHING_SAID = SourceOptions()


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint directory.

    Attributes:
        name: The value of ``--family``.
        recognises: Whether the directory's files look like this family; reads no weights.
        load: Reads the directory; raises ExportError when it cannot be served exactly.
        takes: The names of the ``SourceOptions`` that mean something to it; others are refused.
        weights: Finds the file with the weights, as ``load`` does, or the index of several: for ``--sha256``.
        reads_files: Whether a checkpoint may be one file instead of a directory.
    """

    name: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path, SourceOptions], LoadedCheckpoint]
    takes: tuple[str, ...] = ()
    weights: Callable[[Path], Path] = weights_file
    reads_files: bool = False

    def read(self, directory: Path, options: SourceOptions = NOTHING_SAID) -> LoadedCheckpoint:
        """Load, after refusing options that mean nothing here."""
        for entry in dataclasses.fields(options):
            if getattr(options, entry.name) is not None and entry.name not in self.takes:
                raise ExportError(f"--{entry.name.replace('_', '-')}: means nothing to the family {self.name}")
        for name in ("max_source_length", "max_target_length", "pad_sources"):
            length = getattr(options, name)
            if length is not None and not 1 <= length <= LONGEST:
                raise ExportError(f"--{name.replace('_', '-')} {length}: outside 1..{LONGEST}")
        return self.load(directory, options)
