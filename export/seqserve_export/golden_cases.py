"""Which of the proof's sources a bundle keeps with its answers, for whoever is about to serve it (``golden.json``)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqserve.bundle import ModelDescription
from seqserve.golden import LEAD, Golden, write_golden
from seqserve_export.parity import BundleDecoder, Opener
from seqserve_export.proof_sources import ProofSource

CASES = 4
TRIED = 16  # sources: on some a random model is never sure of its first token
LONGEST_SOURCE = 64
NEW_TOKENS = 16


def write_cases(
    directory: Path, model: ModelDescription, sources: Sequence[ProofSource], open_bundle: Opener
) -> None:
    """Decode with the finished graphs, whatever their precision; without the scorer, which has no part in it."""
    with open_bundle(directory, verify=False, scorer=False) as opened:
        write_golden(directory, golden_cases(opened, model, sources))


def golden_cases(opened: BundleDecoder, model: ModelDescription, sources: Sequence[ProofSource]) -> list[Golden]:
    """The cases with the most tokens, of the first short sources."""
    tried = [source for source in sources if len(source.ids) <= LONGEST_SOURCE][:TRIED]
    answers = opened.generate(
        [source.ids for source in tried], [source.prompt for source in tried],
        max_new_tokens=min(NEW_TOKENS, model.max_new_tokens), min_new_tokens=0,
    )
    cases = []
    for source, answer in zip(tried, answers, strict=True):
        tokens = [*answer.token_ids, *([model.eos_id] if answer.finish_reason == "eos" else [])]
        sure = certain(tokens, opened.step_logits(source.ids, tokens, source.prompt)) if tokens else 0
        if sure:
            cases.append(Golden(source.ids, source.prompt, tuple(tokens[:sure]), tuple(answer.log_probs[:sure])))
    return sorted(cases, key=lambda case: -len(case.tokens))[:CASES]


def certain(tokens: Sequence[int], logits: NDArray[np.float32]) -> int:
    """How many of the first tokens lead the next best one by ``LEAD``."""
    for place, token in enumerate(tokens):
        row = logits[place].astype(np.float64)
        best, row[token] = row[token], -np.inf
        if not best - row.max() >= LEAD:
            return place
    return len(tokens)
