"""What the proof runs on: seeded random ids of mixed lengths, or the lines of a file made up to the same number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqserve.bundle import ModelDescription
from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE, Frame, Framing, Place
from seqserve.text_errors import UnencodableText
from seqserve_export.errors import ExportError
from seqserve_export.tokenizer_files import TokenizerFiles

COUNT = 200
TYPICAL_LENGTH = 24  # most sources are up to this long; a few are much longer
LONGEST = 192  # long enough to leave T5's last bucket (128) and every padding multiple behind
LONG_TARGETS = 2  # sources whose target is forced to the longest as well
SEED = 20171206


@dataclass(frozen=True)
class ProofSource:
    """A complete source, what its decoder is fed first, and for a few a long target to be teacher-forced."""

    ids: tuple[int, ...]
    prompt: tuple[int, ...]
    forced_target: tuple[int, ...] = ()
    is_sentence: bool = False


def random_sources(model: ModelDescription, count: int, *, seed: int = SEED) -> list[ProofSource]:
    """Sources of length 1, the longest sensible one, and lengths between, complete with the family's own ids.

    Models with several languages get sources in many of them.
    """
    random = np.random.default_rng(seed)
    around = len(model.source_prefix) + len(model.source_suffix)
    longest = min(model.max_source_length, LONGEST)
    lengths = [*range(1, 18), 31, 32, 33, longest, longest]
    lengths = [length for length in lengths if around <= length <= longest]
    while len(lengths) < count:
        lengths.append(int(random.integers(max(1, around), min(TYPICAL_LENGTH, longest) + 1)))
    source_ids = _content_ids(model, model.source_vocab_size)
    target_ids = _content_ids(model, model.target_vocab_size)
    frames = _frames(model.framing, len(lengths))
    sources = [
        (frame.complete(tuple(random.choice(source_ids, length - around).tolist())), frame.prompt)
        for length, frame in zip(lengths, frames, strict=True)
    ]
    long_target = min(model.max_new_tokens, LONGEST)
    forced = [tuple(random.choice(target_ids, long_target).tolist()) for _ in range(LONG_TARGETS)]
    # In random order: batches of the reference then mix lengths, as the bundle's batches do.
    order = random.permutation(len(sources)).tolist()
    return [
        ProofSource(sources[place][0], sources[place][1], forced[rank] if rank < LONG_TARGETS else ())
        for rank, place in enumerate(order)
    ]


def sentence_sources(model: ModelDescription, tokenizer: TokenizerFiles | None, file: Path) -> list[ProofSource]:
    """The lines of a text file through the checkpoint's tokenizer, made up to the usual count with random ids.

    Raises:
        ExportError: no tokenizer, an unreadable file, or a line longer than the model's limit.
    """
    if tokenizer is None:
        raise ExportError("--sentences: this checkpoint has no tokenizer; leave it out to prove on random ids")
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--sentences: {file}: cannot be read: {error}") from None
    try:
        encode = tokenizer.encoder()
    except ImportError as error:
        raise ExportError(f"--sentences: needs the {error.name} library; pip install 'seqserve[server]'") from None
    sources, frame, limit = [], model.framing.example(), model.max_source_length
    for number, line in enumerate(lines, start=1):
        try:
            ids = frame.complete(tuple(encode(line)))
        except UnencodableText as error:
            raise ExportError(f"--sentences: line {number}: {error}") from None
        if len(ids) > limit:
            raise ExportError(f"--sentences: line {number} has {len(ids)} tokens, the model takes {limit}")
        sources.append(ProofSource(ids, frame.prompt, is_sentence=True))
    return sources + random_sources(model, COUNT)[: max(COUNT - len(sources), 2 * LONG_TARGETS)]


def arrivals(count: int, *, seed: int = SEED) -> list[int]:
    """A loop step for every source, so that they join and leave a running batch in disorder."""
    steps: list[int] = np.random.default_rng(seed).integers(0, max(1, count // 2), count).tolist()
    return steps


def _frames(framing: Framing, count: int) -> list[Frame]:
    """One frame for each source, walking through the languages in both directions."""
    if not framing.languages:
        return [framing.example()] * count
    codes = sorted(framing.languages)
    frames = []
    for number in range(count):
        source, target = codes[number % len(codes)], codes[-1 - number % len(codes)]
        frames.append(framing.frame(*(
            code if word in framing.words else None
            for word, code in ((SOURCE_LANGUAGE, source), (TARGET_LANGUAGE, target))
        )))
    return frames


def _content_ids(model: ModelDescription, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every id but the special ones."""
    special: set[Place] = {model.pad_id, model.eos_id, *model.languages.values()}
    special |= {*model.source_prefix, *model.source_suffix, *model.decoder_prompt}
    ids = np.array([token for token in range(size) if token not in special], dtype=np.int64)
    return ids if len(ids) else np.arange(size, dtype=np.int64)
