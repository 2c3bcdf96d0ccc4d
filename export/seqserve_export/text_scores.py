"""How alike two translations of the same sentences are, as BLEU and chrF say it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class TextScores:
    """Of one bundle's texts against another's; both are 0 .. 100, and 100 is "the same".

    Attributes:
        sentences: How many were compared.
        bleu: Corpus BLEU; Papineni et al. 2002, with sacrebleu's tokenisation.
        chrf: Corpus chrF2; Popovic 2015.
    """

    sentences: int
    bleu: float
    chrf: float

    @classmethod
    def of(cls, expected: Sequence[str], actual: Sequence[str]) -> "TextScores":
        """Score ``actual`` with ``expected`` as its one reference. There must be at least one sentence."""
        references = [list(expected)]
        return cls(
            len(expected), BLEU().corpus_score(list(actual), references).score,
            CHRF().corpus_score(list(actual), references).score,
        )
