"""``golden.json``: a few sources of a bundle with the answers that the exported graphs gave them.

Whoever is about to serve the bundle decodes them again first: tokens have to be the same, and log-probabilities within
``TOLERANCE`` of what is written, for another processor rounds otherwise. So that rounding cannot change a token, an
answer is kept only as far as the best token led the next one by ``LEAD``.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqserve.bundle import BundleError, ModelDescription
from seqserve.whole_files import read_object

GOLDEN_FILE = "golden.json"
LEAD = 0.2  # between the logits of the best token and of the next
TOLERANCE = 0.1  # absolute, on log-probabilities
MOST_CASES = 64


@dataclass(frozen=True)
class Golden:
    """One source and how greedy decoding of it begins.

    Attributes:
        source: Complete: with what the family puts around the content.
        prompt: What the decoder is fed first.
        tokens: The first generated ones, at least one; the end token where it is among them.
        log_probs: Theirs.
    """

    source: tuple[int, ...]
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


def write_golden(directory: Path, cases: list[Golden]) -> None:
    """Write the file; none where there are no cases."""
    if cases:
        text = json.dumps({"cases": [dataclasses.asdict(case) for case in cases]}, indent=1, allow_nan=False)
        (directory / GOLDEN_FILE).write_text(text + "\n", encoding="utf-8")


def read_golden(directory: Path, model: ModelDescription) -> list[Golden]:
    """The cases of a bundle whose manifest was checked before; none where it has no such file.

    Raises:
        BundleError: naming the case and what is wrong with it.
    """
    if not (directory / GOLDEN_FILE).exists():
        return []
    entries = read_object(directory / GOLDEN_FILE, GOLDEN_FILE).get("cases")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_CASES:
        raise BundleError(f"{GOLDEN_FILE}: cases: not a list of 1..{MOST_CASES}")
    return [_case(entry, model, f"{GOLDEN_FILE}: cases[{place}]") for place, entry in enumerate(entries)]


def _case(entry: Any, model: ModelDescription, shown: str) -> Golden:
    names = {field.name for field in dataclasses.fields(Golden)}
    if not isinstance(entry, dict) or set(entry) != names or not all(isinstance(entry[name], list) for name in names):
        raise BundleError(f"{shown}: not an object of the lists {', '.join(sorted(names))}")
    target = model.target_vocab_size
    for name, size, most in (
        ("source", model.source_vocab_size, model.max_source_length), ("prompt", target, model.max_target_length),
        ("tokens", target, model.max_new_tokens),
    ):
        values = entry[name]
        if not 1 <= len(values) <= most:
            raise BundleError(f"{shown}.{name}: {len(values)} ids are outside 1..{most}")
        if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < size for each in values):
            raise BundleError(f"{shown}.{name}: not ids of 0..{size - 1}")
    log_probs = entry["log_probs"]
    if len(log_probs) != len(entry["tokens"]):
        raise BundleError(f"{shown}: {len(log_probs)} log_probs of {len(entry['tokens'])} tokens")
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in log_probs):
        raise BundleError(f"{shown}.log_probs: not finite numbers")
    return Golden(*(tuple(entry[field.name]) for field in dataclasses.fields(Golden)))
