"""What every family hands to the exporter, and what the exporter asks of a family."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve_export.model import Transformer


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint on the canonical model, with what serving needs to know besides the weights.

    Attributes:
        model: In eval mode, float32, frozen. Its configuration holds the pad, end and decoder start ids.
        source_prefix, source_suffix: Ids around the content of every source.
        unk_id: The id of an unknown token, if the vocabulary has one.
        default_max_new_tokens, default_min_new_tokens: Generated tokens, the end token included, start tokens not.
        tokenizer: A ``tokenizer.json`` for both sides, or None (the bundle then takes and returns ids).
        provenance: What the bundle says about its origin: source class, SHA-256 of the files, generation settings.
        notes: One line each: what the source does that the bundle does not.
    """

    family: str
    model: Transformer
    source_prefix: tuple[int, ...]
    source_suffix: tuple[int, ...]
    unk_id: int | None
    default_max_new_tokens: int
    default_min_new_tokens: int = 0
    tokenizer: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint directory.

    Attributes:
        name: The value of ``--family``.
        recognises: Whether the directory's files look like this family; reads no weights.
        load: Reads the directory; raises ExportError when it cannot be served exactly.
    """

    name: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path], LoadedCheckpoint]
