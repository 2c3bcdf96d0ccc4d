"""The proof: an exported bundle, run by the server's own engine, against the PyTorch model it came from.

Five comparisons on at least 200 sources: encoder states, teacher-forced step logits, greedy tokens, the same greedy
decoding once more through mixed batches with staggered arrivals, where every bit has to be that of decoding alone, and
the scorer's log-probabilities of what was decoded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve_export import reference
from seqserve_export.conditioning import Conditioning
from seqserve_export.model import CanonicalModel
from seqserve_export.parity_report import Difference, ParityReport
from seqserve_export.proof_sources import ProofSource

TOLERANCE = 1e-4  # absolute, on encoder states, logits and log-probabilities of float32 bundles
REFERENCE_BATCH = 16  # sources that the reference computes together
LOGIT_ENTRIES = 2**24  # that are held at a time, in two or three places: with 256 000 tokens, 64 steps


class Generated(Protocol):
    """What a bundle returns for one source; ``seqserve_server.request.Finished`` is one."""

    @property
    def token_ids(self) -> list[int]:
        """Without the end token."""

    @property
    def log_probs(self) -> list[float]:
        """The end token's included."""

    @property
    def finish_reason(self) -> str:
        """"eos" or "length"."""


class BundleDecoder(Protocol):
    """An opened bundle. ``seqserve_server.local.LocalModel`` is one; export may not import it, so it is handed in."""

    def encoder_states(self, source_ids: Sequence[int], /) -> NDArray[np.float32]:
        """[length, width] of one complete source."""

    def step_logits(
        self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int], last: int | None = None, /
    ) -> NDArray[np.float32]:
        """[len(target_ids), vocabulary] of incremental, teacher-forced steps after a prompt; or of the last few."""

    def generate(
        self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, *,
        max_new_tokens: int | None = None, min_new_tokens: int | None = None, arrivals: Sequence[int] | None = None,
    ) -> Sequence[Generated]:
        """Decode greedily; ``arrivals[i]`` is the loop step at which source i is submitted."""

    @property
    def can_score(self) -> bool:
        """Whether there is a scorer."""

    def score_targets(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /
    ) -> Sequence[NDArray[np.float32]]:
        """Log-probabilities [len(target)] of each target, in one pass."""

    def text(self, token_ids: Sequence[int], /) -> str:
        """Detokenised; only where the bundle has a tokenizer."""


class Opener(Protocol):
    """Opens a bundle directory; with ``verify`` False it has no manifest yet."""

    def __call__(self, directory: Path, /, *, verify: bool, scorer: bool) -> AbstractContextManager[BundleDecoder]:
        """The opened bundle; ``scorer`` False leaves that closed, whose weights the runtime holds a second time."""


@dataclass
class _Measured:
    """Running maxima, and what later comparisons need of each source."""

    conditioning: Conditioning
    encoder_error: float = 0.0
    logits_error: float = 0.0
    largest_logit: float = 0.0
    log_prob_error: float = 0.0
    generated_tokens: int = 0
    longest_target: int = 0
    equal: int = 0
    alone: list[Generated] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Proof:
    """What was found without the scorer, and what that has to say.

    Attributes:
        targets: What the model decoded, of each source.
        scores: Log-probabilities [len(target)] of each, by the model.
        conditioning: What it notes of scores, too, is in the report.
    """

    report: ParityReport
    targets: list[list[int]]
    scores: list[NDArray[np.float64]]
    conditioning: Conditioning

    def with_scores(self, bundle: BundleDecoder, sources: Sequence[ProofSource]) -> ParityReport:
        """The report with the error of the scorer on what the model decoded, all of it together."""
        asked = [each for each in zip(sources, self.targets, self.scores, strict=True) if each[1]]
        found = bundle.score_targets(
            [source.ids for source, _, _ in asked], [target for _, target, _ in asked],
            [source.prompt for source, _, _ in asked],
        )
        error = 0.0
        places = [place for place, target in enumerate(self.targets) if target]
        for place, own, (source, target, scores) in zip(places, found, asked, strict=True):
            own_error = self.conditioning.log_prob_error(place, own, scores, source.ids, target, source.prompt)
            error = _larger(error, own_error)
        return dataclasses.replace(self.report, score_error=error)


def prove(
    model: CanonicalModel, bundle: BundleDecoder, sources: Sequence[ProofSource], *,
    max_new_tokens: int, arrivals: Sequence[int], forced_end: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Proof:
    """Compare a bundle with its model: the graphs alone, without the family's default of ``min_new_tokens``.

    Args:
        max_new_tokens: Where greedy decoding stops: a random model never ends by itself.
        arrivals: The loop step at which each source joins the mixed batch.
        forced_end: Whether the bundle makes the last token that the limit allows the end token.
        progress: Told how many sources are done.
    """
    measured = _Measured(Conditioning(model, TOLERANCE))
    steps = max(1, LOGIT_ENTRIES // model.config.target_vocab_size)
    together = min(REFERENCE_BATCH, max(1, steps // max_new_tokens))
    for first in range(0, len(sources), together):
        batch = sources[first : first + together]
        decoded = reference.greedy(
            model, [source.ids for source in batch], max_new_tokens, prompts=[source.prompt for source in batch],
            forced_end=forced_end,
        )
        _compare_batch(model, bundle, batch, decoded, first, max_new_tokens, measured)
        progress(first + len(batch))
    mixed = bundle.generate(
        [source.ids for source in sources], [source.prompt for source in sources], max_new_tokens=max_new_tokens,
        min_new_tokens=0, arrivals=arrivals,
    )

    def tied(difference: Difference) -> bool:
        ill = measured.conditioning.at(difference.source, forced=False).get(difference.position)
        return difference.gap < 2 * (measured.logits_error if ill is None else ill.error)

    report = ParityReport(
        sources=len(sources),
        source_tokens=sum(len(source.ids) for source in sources),
        longest_source=max(len(source.ids) for source in sources),
        generated_tokens=measured.generated_tokens,
        longest_target=measured.longest_target,
        compared_positions=measured.conditioning.compared,
        tolerance=TOLERANCE,
        encoder_error=measured.encoder_error,
        logits_error=measured.logits_error,
        largest_logit=measured.largest_logit,
        log_prob_error=measured.log_prob_error,
        score_error=None,
        equal=measured.equal,
        ties=[difference for difference in measured.differences if tied(difference)],
        misses=[difference for difference in measured.differences if not tied(difference)],
        mixed_differences=[
            place for place, (one, other) in enumerate(zip(measured.alone, mixed, strict=True))
            if not same_bits(one, other)
        ],
        ill_conditioned=measured.conditioning.found,
    )
    return Proof(report, measured.targets, measured.scores, measured.conditioning)


def _compare_batch(
    model: CanonicalModel, bundle: BundleDecoder, batch: Sequence[ProofSource], decoded: Sequence[reference.Decoded],
    first: int, max_new_tokens: int, measured: _Measured,
) -> None:
    """Everything that is compared source by source, for a few sources that the reference computed together."""
    states = reference.encoder_states(model, [source.ids for source in batch])
    last = max(1, LOGIT_ENTRIES // model.config.target_vocab_size)
    forced = {
        place: reference.step_logits(model, [source.ids], [source.forced_target], [source.prompt], last)[0]
        for place, source in enumerate(batch) if source.forced_target
    }
    for place, source in enumerate(batch):
        expected = decoded[place]
        fed = chosen_tokens(expected, model.config.eos_id)
        actual = bundle.step_logits(source.ids, fed, source.prompt)
        largest = np.abs(expected.logits.max(axis=-1)).max(initial=0.0)
        measured.largest_logit = max(measured.largest_logit, float(largest))
        encoder_error = largest_error(bundle.encoder_states(source.ids), states[place])
        error_of, number = measured.conditioning.error, first + place
        logits_error = error_of(number, actual, expected.logits, source.ids, fed, source.prompt)
        if place in forced:
            long_logits = bundle.step_logits(source.ids, source.forced_target, source.prompt, last)
            long_error = error_of(
                number, long_logits, forced[place], source.ids, source.forced_target, source.prompt, forced=True
            )
            logits_error = _larger(logits_error, long_error)
        (alone,) = bundle.generate([source.ids], [source.prompt], max_new_tokens=max_new_tokens, min_new_tokens=0)
        difference = first_difference(first + place, expected, alone, model.config.eos_id)
        if difference is None:
            error = measured.conditioning.log_prob_error(
                number, alone.log_probs, expected.log_probs, source.ids, fed, source.prompt
            )
            measured.log_prob_error = _larger(measured.log_prob_error, error)
            measured.equal += 1
        else:
            measured.differences.append(difference)
        measured.encoder_error = _larger(measured.encoder_error, encoder_error)
        measured.logits_error = _larger(measured.logits_error, logits_error)
        measured.generated_tokens += len(fed)
        measured.longest_target = max(measured.longest_target, len(fed), len(source.forced_target))
        measured.alone.append(alone)
        measured.targets.append(fed)
        measured.scores.append(_log_probs(expected.logits, fed))


def _log_probs(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Of each token by the logits [len(tokens), vocabulary] before it."""
    exact = logits.astype(np.float64)
    largest = exact.max(axis=-1, keepdims=True)
    own: NDArray[np.float64] = exact - largest - np.log(np.exp(exact - largest).sum(axis=-1, keepdims=True))
    return own[np.arange(len(tokens)), list(tokens)]


def chosen_tokens(decoded: reference.Decoded, eos_id: int) -> list[int]:
    """Generated tokens, the end token included."""
    return [*decoded.token_ids, *([eos_id] if decoded.finish_reason == "eos" else [])]


def first_difference(
    source: int, expected: reference.Decoded, actual: Generated, eos_id: int
) -> Difference | None:
    """Where the greedy tokens part, or None where they are equal."""
    ours = [*actual.token_ids, *([eos_id] if actual.finish_reason == "eos" else [])]
    theirs = chosen_tokens(expected, eos_id)
    if ours == theirs and actual.finish_reason == expected.finish_reason:
        return None
    shared = min(len(ours), len(theirs))
    position = next((place for place in range(shared) if ours[place] != theirs[place]), shared)
    gap = np.inf
    if position < len(theirs):
        second, best = np.partition(expected.logits[position], -2)[-2:]
        gap = float(best - second)
    return Difference(
        source, position,
        theirs[position] if position < len(theirs) else None, ours[position] if position < len(ours) else None, gap,
    )


def largest_error(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest absolute difference; infinite where shapes differ, NaN where a value is NaN."""
    if actual.shape != expected.shape:
        return np.inf
    return float(np.abs(actual - expected).max(initial=0.0))


def same_bits(one: Generated, other: Generated) -> bool:
    """Whether two results have the same tokens, end and log-probabilities, bit for bit."""
    bits = [np.asarray(result.log_probs, dtype=np.float64).tobytes() for result in (one, other)]
    return one.token_ids == other.token_ids and one.finish_reason == other.finish_reason and bits[0] == bits[1]


def _larger(one: float, other: float) -> float:
    """Like max(), but NaN wins."""
    return float(np.maximum(one, other))
