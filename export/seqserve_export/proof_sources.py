"""What the proof runs on: seeded random ids of mixed lengths, or the lines of a file made up to the same number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqserve.marian_text import UnknownLanguage
from seqserve.word_text import UnknownWord
from seqserve_export.errors import ExportError
from seqserve_export.families import LoadedCheckpoint

COUNT = 200
TYPICAL_LENGTH = 24  # most sources are up to this long; a few are much longer
LONGEST = 192  # long enough to leave T5's last bucket (128) and every padding multiple behind
LONG_TARGETS = 2  # sources whose target is forced to the longest as well
SEED = 20171206


@dataclass(frozen=True)
class ProofSource:
    """A complete source, and for a few a long target to be teacher-forced (else empty)."""

    ids: tuple[int, ...]
    forced_target: tuple[int, ...] = ()


def random_sources(checkpoint: LoadedCheckpoint, count: int, *, seed: int = SEED) -> list[ProofSource]:
    """Sources of length 1, the longest sensible one, and lengths between, complete with the family's own ids."""
    config, random = checkpoint.model.config, np.random.default_rng(seed)
    around = len(checkpoint.source_prefix) + len(checkpoint.source_suffix)
    longest = min(config.max_source_length, LONGEST)
    lengths = [*range(1, 18), 31, 32, 33, longest, longest]
    lengths = [length for length in lengths if around <= length <= longest]
    while len(lengths) < count:
        lengths.append(int(random.integers(max(1, around), min(TYPICAL_LENGTH, longest) + 1)))
    source_ids = _content_ids(checkpoint, config.source_vocab_size)
    target_ids = _content_ids(checkpoint, config.target_vocab_size)
    sources = [_complete(checkpoint, random.choice(source_ids, length - around).tolist()) for length in lengths]
    long_target = min(config.max_target_length, LONGEST)
    forced = [tuple(random.choice(target_ids, long_target).tolist()) for _ in range(LONG_TARGETS)]
    # In random order: batches of the reference then mix lengths, as the bundle's batches do.
    order = random.permutation(len(sources)).tolist()
    return [
        ProofSource(sources[place], forced[rank] if rank < LONG_TARGETS else ()) for rank, place in enumerate(order)
    ]


def sentence_sources(checkpoint: LoadedCheckpoint, file: Path) -> list[ProofSource]:
    """The lines of a text file through the checkpoint's tokenizer, made up to the usual count with random ids.

    Raises:
        ExportError: no tokenizer, an unreadable file, or a line longer than the model's limit.
    """
    if checkpoint.tokenizer is None:
        raise ExportError("--sentences: this checkpoint has no tokenizer; leave it out to prove on random ids")
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--sentences: {file}: cannot be read: {error}") from None
    try:
        encode = checkpoint.tokenizer.encoder()
    except ImportError as error:
        raise ExportError(f"--sentences: needs the {error.name} library; pip install 'seqserve[server]'") from None
    sources, limit = [], checkpoint.model.config.max_source_length
    for number, line in enumerate(lines, start=1):
        try:
            ids = _complete(checkpoint, encode(line))
        except (UnknownLanguage, UnknownWord) as error:
            raise ExportError(f"--sentences: line {number}: {error}") from None
        if len(ids) > limit:
            raise ExportError(f"--sentences: line {number} has {len(ids)} tokens, the model takes {limit}")
        sources.append(ProofSource(ids))
    return sources + random_sources(checkpoint, COUNT)[: max(COUNT - len(sources), 2 * LONG_TARGETS)]


def arrivals(count: int, *, seed: int = SEED) -> list[int]:
    """A loop step for every source, so that they join and leave a running batch in disorder."""
    steps: list[int] = np.random.default_rng(seed).integers(0, max(1, count // 2), count).tolist()
    return steps


def _complete(checkpoint: LoadedCheckpoint, content: Sequence[int]) -> tuple[int, ...]:
    return (*checkpoint.source_prefix, *content, *checkpoint.source_suffix)


def _content_ids(checkpoint: LoadedCheckpoint, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every id but the special ones."""
    config = checkpoint.model.config
    special = {config.pad_id, config.eos_id, config.decoder_start_id}
    special |= {*checkpoint.source_prefix, *checkpoint.source_suffix}
    ids = np.array([token for token in range(size) if token not in special], dtype=np.int64)
    return ids if len(ids) else np.arange(size, dtype=np.int64)
