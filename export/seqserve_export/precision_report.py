"""How far a rounded bundle is from the float32 bundle it was made of: the figures, and the table that shows them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_export.text_scores import TextScores

SUPPRESSED_FROM = 1e9
# Float16 graphs run on the CPU skip roundings (``graphs.emulate``). Off by more than this times what all roundings
# cost, they are not the graphs that were measured.
OWN_ERROR = 2.0
# The scorer and the steps of one bundle hold the same rounded weights. Where a value lies between two integers they may
# round it differently, and deep models carry that on: on three models they are apart by 4 to 27 % of what rounding
# costs. By more than all of it, they are not the same.
SCORE_ERROR = 1.0
HOW = {"fp16": ", computed on the CPU in float32 and rounded to float16\n  after every operator; no GPU was asked"}


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """How far a rounded bundle is from the float32 one it was made of.

    Attributes:
        bytes_before, bytes_after: Of the graphs and their weights.
        logit_largest, logit_mean: Absolute errors of teacher-forced logits, fed the float32 bundle's tokens.
        logit_deviation: Standard deviation of the float32 logits, to read the errors by.
        tokens_equal: Part of generated tokens that are the float32 bundle's at the same place, 0 .. 1.
        sources_equal: Sources whose tokens are all equal.
        mixed_equal: Sources with the same bits alone and in mixed batches; must be all.
        own_largest, own_mean: Errors of the written graphs' logits where those that were measured are other graphs,
            namely emulations in float32 (fp16); else None.
        score_largest, score_mean: How far the scorer's log-probabilities are from those of this bundle's own steps fed
            the same tokens; None without a scorer. Not 0: where two ways round differently, a value may fall into the
            next of 255 levels.
        texts: How alike the texts of the given sentences are; None without sentences.
    """

    precision: str
    sources: int
    bytes_before: int
    bytes_after: int
    logit_largest: float
    logit_mean: float
    logit_deviation: float
    tokens_equal: float
    sources_equal: int
    mixed_equal: int
    min_agreement: float
    own_largest: float | None = None
    own_mean: float | None = None
    score_largest: float | None = None
    score_mean: float | None = None
    texts: TextScores | None = None

    @property
    def own_right(self) -> bool:
        """Whether the written graphs are as near to the float32 ones as their emulation."""
        return self.own_mean is None or self.own_mean <= OWN_ERROR * self.logit_mean

    @property
    def scores_right(self) -> bool:
        """Whether the scorer and the steps are as near to each other as the same weights have to be."""
        return self.score_mean is None or self.score_mean <= SCORE_ERROR * self.logit_mean

    @property
    def passed(self) -> bool:
        """Whether the bundle may be written."""
        agrees = self.mixed_equal == self.sources and self.tokens_equal >= self.min_agreement
        return agrees and self.own_right and self.scores_right

    def table(self) -> str:
        """For people."""
        def mark(good: bool) -> str:
            return "ok" if good else "MISSED"

        # float16 errs in the third digit, 8 bits in the first
        digits = 3 if self.precision == "int8" else 4
        megabytes = self.bytes_before / 1e6, self.bytes_after / 1e6
        texts = () if self.texts is None else (
            f"  texts of {f'{self.texts.sentences} sentences':28} BLEU {self.texts.bleu:.1f}, chrF "
            f"{self.texts.chrf:.1f} against the float32 ones",
        )
        own = () if self.own_mean is None else (
            f"  step logits of the graphs as written  largest error {self.own_largest:.3f}, mean {self.own_mean:.4f}   "
            f"{mark(self.own_right)}",
        )
        scores = () if self.score_mean is None else (
            f"  scores against its own steps          largest error {self.score_largest:.{digits - 1}f}, "
            f"mean {self.score_mean:.{digits + 1}f}   {mark(self.scores_right)}",
        )
        return "\n".join((
            f"{self.precision} against the float32 graphs above{HOW.get(self.precision, '')}",
            f"  size of the graphs                    {megabytes[0]:.1f} MB before, {megabytes[1]:.1f} MB after",
            f"  step logits (deviation {self.logit_deviation:.2f})          "
            f"largest error {self.logit_largest:.{digits - 1}f}, mean {self.logit_mean:.{digits}f}",
            *own,
            *scores,
            f"  tokens equal                          {self.tokens_equal:.1%}, at least {self.min_agreement:.1%} "
            f"asked for   {mark(self.tokens_equal >= self.min_agreement)}",
            f"  sources equal                         {self.sources_equal} of {self.sources}",
            f"  mixed batches, same bits as alone     {self.mixed_equal:10} of {self.sources}   "
            f"{mark(self.mixed_equal == self.sources)}",
            *texts,
        ))


@dataclass
class LogitErrors:
    """Figures of logits that are seen source by source and not kept: all together are 262 MB for 32,000 tokens."""

    largest: float = 0.0
    _count: int = 0
    _errors: float = 0.0
    _sum: float = 0.0
    _squares: float = 0.0

    def add(self, exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> None:
        """Both [steps, vocabulary]. Suppressed tokens, whose logits a family makes huge, are not looked at."""
        meant = np.abs(exact) < SUPPRESSED_FROM
        exact, rounded = exact[meant], rounded[meant]
        error = np.abs(rounded - exact)
        self.largest = max(self.largest, float(error.max()))
        self._count += exact.size
        self._errors += float(error.sum(dtype=np.float64))
        self._sum += float(exact.sum(dtype=np.float64))
        self._squares += float(np.square(exact, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return self._errors / self._count

    @property
    def deviation(self) -> float:
        """Standard deviation of the exact logits."""
        return math.sqrt(max(0.0, self._squares / self._count - (self._sum / self._count) ** 2))
