"""Compare the ``ctranslate2`` family with CTranslate2 itself on random models: greedy tokens, and scores by token.

In the peers' environment (``make bench-peers``), which has ctranslate2, transformers and torch:

    PYTHONPATH=export:proto:tests:bench .venv-peers/bin/python -m peers.ctranslate2_parity [--write DIR]

``--write`` saves some small models and what CTranslate2 computes with them; tests/data/ctranslate2 was made so.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch

from peers import ctranslate2_models
from peers.ctranslate2_models import Variant
from seqserve_export import reference
from seqserve_export.description import describe
from seqserve_export.families import LoadedCheckpoint, choose_family

SENTENCES, LIMIT, TOLERANCE = 32, 24, 1e-4
NEAR_TIE = 1e-4
LONG = 150  # of one source and one target: behind the last bucket of T5's relative positions
WRITTEN = {"pre-norm, relu, int8": "int8", "shared, gelu, float16": "float16", "Marian, int8": "marian",
           "T5, gated, untied, int8": "t5"}
WRITTEN_SENTENCES = 10


@dataclass
class Compared:
    """Largest errors over a variant's sentences, and how many were decoded differently."""

    token_score: float = 0.0
    sum_score: float = 0.0
    different: int = 0
    ties: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Case:
    """What both are given, and what CTranslate2 made of it, as plain values."""

    sources: list[list[str]]
    greedy: list[list[str]]
    scores: list[float]
    targets: list[list[str]]
    target_scores: list[list[float]]


def ask_ctranslate2(directory: Path, variant: Variant, seed: int, longest: int, count: int = SENTENCES) -> Case:
    """Random sources through ``translate_batch`` and random targets through ``score_batch``, in float32."""
    random = np.random.default_rng(seed)
    source_words, target_words = (
        [word for word in words if not word.startswith("<")] for words in variant.vocabularies
    )
    ending = ["</s>"] if variant.caller_ends else []
    lengths = [longest, *random.integers(1, 40, count - 1).tolist()]
    sources = [[*random.choice(source_words, length).tolist(), *ending] for length in lengths]
    sources[1][0] = "never seen"  # the unknown token
    targets = [random.choice(target_words, length).tolist() for length in (17, longest, 1, 5)]
    translator = ctranslate2.Translator(str(directory), compute_type="float32", inter_threads=1, intra_threads=1)
    results = translator.translate_batch(
        sources, beam_size=1, return_scores=True, length_penalty=0, max_decoding_length=LIMIT
    )
    scored = translator.score_batch(sources[: len(targets)], targets)
    return Case(
        sources, [result.hypotheses[0] for result in results], [result.scores[0] for result in results], targets,
        [result.log_probs for result in scored],
    )


def compare(checkpoint: LoadedCheckpoint, variant: Variant, case: Case) -> Compared:
    """The same through the canonical model."""
    model, found = checkpoint.model, Compared()
    frame = describe(checkpoint, "compared", "fp32").framing.example()
    source_words, target_words = variant.vocabularies
    unknown = source_words.index("<unk>")
    sources = [
        frame.complete(tuple(source_words.index(word) if word in source_words else unknown for word in source))
        for source in case.sources
    ]
    decoded = reference.greedy(model, sources, LIMIT, checkpoint.default_min_new_tokens)
    for result, words, score in zip(decoded, case.greedy, case.scores, strict=True):
        ids = [target_words.index(word) for word in words]
        found.tokens += len(ids) + 1
        if result.token_ids != ids:
            if _is_tie(result, ids):
                found.ties += 1
            else:
                found.different += 1
            continue
        # CTranslate2 takes the end token out before it normalises the first step.
        first = torch.from_numpy(result.logits[0].copy())
        first[model.config.eos_id] = -torch.inf
        opening = float(torch.log_softmax(first, 0)[ids[0]])
        found.sum_score = max(found.sum_score, abs(opening + sum(result.log_probs[1:]) - score))
    targets = [[*(target_words.index(word) for word in target), model.config.eos_id] for target in case.targets]
    logits = reference.step_logits(model, sources[: len(targets)], targets)
    for rows, target, scores in zip(logits, targets, case.target_scores, strict=True):
        mine = torch.log_softmax(torch.from_numpy(rows), -1)[torch.arange(len(target)), torch.tensor(target)]
        found.token_score = max(found.token_score, float(np.abs(mine.numpy() - np.array(scores)).max()))
    return found


def _is_tie(result: reference.Decoded, ids: list[int]) -> bool:
    """Whether the first difference is between logits that are nearly the same."""
    place = next((i for i, pair in enumerate(zip(result.token_ids, ids, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return False
    logits = result.logits[place]
    return float(abs(logits[result.token_ids[place]] - logits[ids[place]])) < NEAR_TIE


def write(directory: Path) -> None:
    """The models of ``WRITTEN``, each with expected.json beside it."""
    for variant in ctranslate2_models.variants():
        if variant.name in WRITTEN:
            target = directory / WRITTEN[variant.name]
            variant.make(target, layers=1)
            case = ask_ctranslate2(target, variant, 0, 40, WRITTEN_SENTENCES)
            expected: dict[str, Any] = {"made_by": ctranslate2_models.LIBRARY, "limit": LIMIT, **vars(case)}
            (target / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def main() -> int:
    """Print one line per variant; 1 when any differs."""
    parser = argparse.ArgumentParser(description="Compare the ctranslate2 family with CTranslate2.")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save models and results instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.write is not None:
        write(args.write)
        return 0
    print(f"{ctranslate2_models.LIBRARY}, torch {torch.__version__}; {SENTENCES} sentences each, compute type float32")
    failed, total = False, Compared()
    for seed, variant in enumerate(ctranslate2_models.variants()):
        with tempfile.TemporaryDirectory() as name:
            variant.make(Path(name))
            checkpoint = choose_family(Path(name)).read(Path(name))
            limit = checkpoint.model.config.max_target_length
            found = compare(checkpoint, variant, ask_ctranslate2(Path(name), variant, seed, min(LONG, limit - 2)))
        failed |= found.different > 0 or max(found.token_score, found.sum_score) > TOLERANCE
        total.different, total.ties = total.different + found.different, total.ties + found.ties
        total.tokens += found.tokens
        print(
            f"{variant.name:40} token scores {found.token_score:.1e}   sums {found.sum_score:.1e}   "
            f"sentences that differ {found.different}   near ties {found.ties}   tokens {found.tokens}"
        )
    print(f"in all: {total.tokens} tokens, {total.different} sentences that differ, {total.ties} near ties")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
