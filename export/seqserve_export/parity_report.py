"""What a proof found, for people and for ``parity.json``."""

from dataclasses import dataclass, field

from seqserve_export.conditioning import IllConditioned

LISTED = 10  # misses and ties shown one by one
# Of the compared positions. One in thousands is a query that happens to be orthogonal to its key; from one in a
# hundred on the model magnifies rounding as a rule, and what is left does not prove that the graphs are the model's.
ILL_CONDITIONED_PERCENT = 1


@dataclass(frozen=True)
class Difference:
    """The first place where greedy tokens part.

    ``gap`` is the distance between the reference's two best logits there: below twice the measured logits error it is
    a tie that rounding decides, and no miss.
    """

    source: int
    position: int
    reference_token: int | None
    bundle_token: int | None
    gap: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What was compared and how far apart it was.

    Errors are largest absolute differences. ``largest_logit`` is the largest magnitude among the reference's best
    logits and says how good a given error is: float32 keeps about seven digits. ``score_error`` is the scorer's, None
    where there is none. ``compared_positions`` are those of targets, decoded and forced, whose logits were compared. Of
    them those in ``ill_conditioned`` count in no error (:mod:`.conditioning`); more than ``ILL_CONDITIONED_PERCENT`` in
    a hundred are a miss.
    """

    sources: int
    source_tokens: int
    longest_source: int
    generated_tokens: int
    longest_target: int
    compared_positions: int
    tolerance: float
    encoder_error: float
    logits_error: float
    largest_logit: float
    log_prob_error: float
    score_error: float | None
    equal: int
    ties: list[Difference] = field(default_factory=list)
    misses: list[Difference] = field(default_factory=list)
    mixed_differences: list[int] = field(default_factory=list)
    ill_conditioned: list[IllConditioned] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the bundle may be kept."""
        errors = (self.encoder_error, self.logits_error, self.log_prob_error, self.score_error or 0.0)
        # ``not (error <= tolerance)`` and not ``error > tolerance``: the latter would let NaN through.
        within = all(error <= self.tolerance for error in errors)
        return within and self.few_ill_conditioned and not self.misses and not self.mixed_differences

    @property
    def few_ill_conditioned(self) -> bool:
        """Whether enough positions are left to go by."""
        return 100 * len(self.ill_conditioned) <= ILL_CONDITIONED_PERCENT * self.compared_positions

    def table(self) -> str:
        """The report for people, one comparison a line."""
        def line(name: str, figure: str, passed: bool) -> str:
            return f"  {name:34} {figure:>24}   {'ok' if passed else 'MISS'}"

        def error(name: str, value: float) -> str:
            return line(name, f"largest error {value:.1e}", value <= self.tolerance)

        same = self.sources - len(self.mixed_differences)
        lines = [
            f"parity with the source model: {self.sources} sources of 1 to {self.longest_source} tokens, "
            f"{self.generated_tokens} generated tokens, targets of up to {self.longest_target}; "
            f"errors allowed: {self.tolerance:.0e}",
            error("encoder states", self.encoder_error),
            error(f"step logits (best up to {self.largest_logit:.3g})", self.logits_error),
            error("log-probabilities", self.log_prob_error),
            *([] if self.score_error is None else [error("scores, all tokens in one pass", self.score_error)]),
            line("greedy tokens equal", f"{self.equal} of {self.sources}", not self.misses),
            line("mixed batches, same bits as alone", f"{same} of {self.sources}", not self.mixed_differences),
        ]
        if self.ill_conditioned:
            share = f"{len(self.ill_conditioned)} of {self.compared_positions}"
            lines += [
                line(f"ill-conditioned, at most {ILL_CONDITIONED_PERCENT} %", share, self.few_ill_conditioned),
                "  positions not counted above, whose logits move as far when the weights are rounded otherwise:",
            ]
        lines += [
            f"    source {each.source} at token {each.position}{' of its forced target' * each.forced}: "
            f"error {each.error:.1e}, by rounding {each.moved:.1e}"
            for each in self.ill_conditioned[:LISTED]
        ]
        lines += [f"  tie:  {_describe(tie)}" for tie in self.ties[:LISTED]]
        lines += [f"  MISS: {_describe(miss)}" for miss in self.misses[:LISTED]]
        if self.mixed_differences:
            lines.append(f"  MISS: in mixed batches, sources {', '.join(map(str, self.mixed_differences[:LISTED]))}")
        return "\n".join(lines)


def _describe(difference: Difference) -> str:
    return (
        f"source {difference.source} at token {difference.position}: {difference.reference_token} in the source model, "
        f"{difference.bundle_token} in the bundle; the model's two best are {difference.gap:.1e} apart"
    )
