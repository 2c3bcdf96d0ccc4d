"""Compare beam search with transformers' ``generate`` and CTranslate2's ``translate_batch`` on random models.

Both sides have the same model; ours is fed with its log-probabilities. In the peers' environment:

    PYTHONPATH=server:export:proto:bench .venv-peers/bin/python -m peers.beam_parity [--cases N]
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ctranslate2
import numpy as np
import torch
import transformers

from peers.beam_models import END, PAD, RandomModel, Words, decode
from seqserve_server.decoding.search import Hypothesis, SearchSettings, Stopping

CASES, CASES_A_MODEL, TOLERANCE, TRIES, IMPOSSIBLE = 600, 20, 1e-4, 40, -1e8
EARLY_STOPPING: dict[Stopping, Any] = {Stopping.HEURISTIC: False, Stopping.FULL: True, Stopping.EXHAUSTIVE: "never"}
PENALTIES = (0.0, 0.6, 1.0, 2.0)
Answers = list[tuple[list[int], float]]


@dataclass
class Compared:
    """What came of a group of cases.

    Beside the largest error of a score: how many differed though a change of 1e-5 would not explain it, how many where
    it does, and (``plain``) how many answers of CTranslate2 differ if one does not renormalise as it does.
    """

    counts: Counter[str] = field(default_factory=Counter)
    error: float = 0.0

    def line(self, name: str) -> str:
        """A row of the table."""
        counts = self.counts
        return (
            f"{name:44} {counts['cases']:6} {counts['hypotheses']:10} {counts['tokens']:7} {counts['different']:9} "
            f"{counts['near ties']:9} {self.error:9.1e} {counts['plain']:6}"
        )


def cases(random: np.random.Generator, count: int) -> Iterator[tuple[RandomModel, list[int], SearchSettings]]:
    """Models, sources and settings without a stopping rule."""
    for number in range(count):
        if number % CASES_A_MODEL == 0:
            model = RandomModel(int(random.integers(1 << 30)), float(random.uniform(0, 3)))
        most = int(random.integers(1, 17))
        least = (0, 1, int(random.integers(0, most + 1)))[random.integers(3)]
        settings = SearchSettings(
            END, most, min_new_tokens=least,
            forced_end=bool(random.random() < 0.3), length_penalty=float(random.choice(PENALTIES)),
            beam_size=(beams := int(random.choice([1, 2, 4, 8], p=[0.1, 0.3, 0.3, 0.3]))),
            num_hypotheses=int(random.integers(1, beams + 1)),
        )
        yield model, [*random.integers(3, PAD, random.integers(1, 9)).tolist(), END], settings


def by_transformers(model: RandomModel, source: list[int], settings: SearchSettings) -> Answers:
    """Tokens and scores of ``generate``; one beam has no score there."""
    beams = {"early_stopping": EARLY_STOPPING[settings.stopping], "length_penalty": settings.length_penalty}
    with torch.no_grad():
        made = model.hub.generate(
            input_ids=torch.tensor([source]), do_sample=False, num_beams=settings.beam_size,
            num_return_sequences=settings.num_hypotheses, max_new_tokens=settings.max_new_tokens,
            min_new_tokens=settings.min_new_tokens, forced_eos_token_id=END if settings.forced_end else None,
            output_scores=True, return_dict_in_generate=True, **(beams if settings.beam_size > 1 else {}),
        )
    rows = [[token for token in row[1:] if token != PAD] for row in made.sequences.tolist()]
    scores = [float("nan")] if settings.beam_size == 1 else made.sequences_scores.tolist()
    # With one token, the forced end, there is one sequence; the others that it returns are fillings.
    return [each for each in zip(rows, scores, strict=True) if not each[1] < IMPOSSIBLE]


def by_ctranslate2(translator: Any, source: list[int], settings: SearchSettings) -> Answers:
    """Tokens and scores of ``translate_batch``."""
    result = translator.translate_batch(
        [[Words.words[token] for token in source]], beam_size=settings.beam_size, patience=settings.patience,
        num_hypotheses=settings.num_hypotheses, length_penalty=settings.length_penalty, return_scores=True,
        max_decoding_length=settings.max_new_tokens, min_decoding_length=settings.min_new_tokens, return_end_token=True,
    )[0]
    rows = [[Words.words.index(word) for word in words] for words in result.hypotheses]
    return list(zip(rows, result.scores, strict=True))


def as_answers(found: list[Hypothesis], settings: SearchSettings) -> Answers:
    """Tokens, with the end token if there was one, and scores."""
    answers: Answers = []
    for each in found:
        ended = each.ended or (settings.forced_end and len(each.log_probs) == settings.max_new_tokens)
        answers.append(([*each.token_ids, END] if ended else each.token_ids, each.score))
    return answers


def compare(compared: Compared, expected: Answers, settings: SearchSettings, decoded: Any) -> None:
    """Count one case; ``decoded`` is our search, with a generator of noise or None."""
    answers = as_answers(decoded(None), settings)
    rows = [row for row, _ in expected]
    compared.counts.update(cases=1, hypotheses=len(rows), tokens=sum(map(len, rows)))
    if [row for row, _ in answers] == rows:
        errors = [abs(score - theirs) for (_, score), (_, theirs) in zip(answers, expected, strict=True)]
        compared.error = max([compared.error, *(error for error in errors if error == error)])
        return
    noise = np.random.default_rng(0)
    tie = any([row for row, _ in as_answers(decoded(noise), settings)] == rows for _ in range(TRIES))
    compared.counts["near ties" if tie else "different"] += 1
    if not tie:
        print("differs:", settings, expected, answers, sep="\n  ", file=sys.stderr)


def against_transformers(groups: dict[str, Compared], random: np.random.Generator, count: int) -> None:
    """One case for every stopping rule it has."""
    for model, source, settings in cases(random, count):
        for stopping, early in EARLY_STOPPING.items():
            name = "greedy" if settings.beam_size == 1 else f"early_stopping={early!r}"
            chosen = replace(settings, stopping=stopping)
            compare(
                groups.setdefault(f"transformers {name}", Compared()), by_transformers(model, source, chosen), chosen,
                lambda noise, m=model, s=source, c=chosen: decode(m, s, c, noise=noise),
            )
            if settings.beam_size == 1:
                break


def against_ctranslate2(groups: dict[str, Compared], random: np.random.Generator, count: int) -> None:
    """With patience, and with the end token taken out of the distribution where it may not come."""
    before: RandomModel | None = None
    for model, source, settings in cases(random, count):
        if model is not before:
            translator, before = model.converted(), model
        patience = float(random.choice([1.0, 1.0, 2.0, 1.5, 0.5]))
        patience = patience if settings.num_hypotheses <= settings.beam_size * patience else 1.0  # else it refuses
        chosen = replace(settings, stopping=Stopping.PATIENCE, patience=patience, forced_end=False)
        early = " early exit" if patience == 1 and chosen.length_penalty == 0 else ""
        name = f"ctranslate2 {f'patience={patience}{early}' if chosen.beam_size > 1 else 'greedy'}"
        expected = by_ctranslate2(translator, source, chosen)
        compared = groups.setdefault(name, Compared())
        compare(
            compared, expected, chosen,
            lambda noise, m=model, s=source, c=chosen: decode(m, s, c, renormalise=True, noise=noise),
        )
        plain = as_answers(decode(model, source, chosen), chosen)
        compared.counts["plain"] += [row for row, _ in plain] != [row for row, _ in expected]


def main() -> int:
    """Print the table; 1 when any answer differs, near ties excepted."""
    parser = argparse.ArgumentParser(description="Compare beam search with the libraries it follows.")
    parser.add_argument("--cases", type=int, default=CASES, metavar="N", help="random cases for each library")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    groups: dict[str, Compared] = {}
    against_transformers(groups, np.random.default_rng(args.seed), args.cases)
    against_ctranslate2(groups, np.random.default_rng(args.seed + 1), args.cases)
    print(f"transformers {transformers.__version__}, ctranslate2 {ctranslate2.__version__}, torch {torch.__version__}")
    print(f"{'':44}  cases hypotheses  tokens different near ties max error  plain")
    for name in sorted(groups):
        print(groups[name].line(name))
    return int(any(each.counts["different"] or each.error > TOLERANCE for each in groups.values()))


if __name__ == "__main__":
    sys.exit(main())
