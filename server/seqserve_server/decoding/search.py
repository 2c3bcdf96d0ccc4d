"""What a search is told and what it answers. One search chooses the tokens of one request; it knows no rows, no time.

A search has live hypotheses, one for each row that its request runs, in an order of its own. Every step it is given the
best next tokens of each, and answers which hypotheses live on, grown by one token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve_server.decoding.stop_texts import StopTexts


class Stopping(Enum):
    """When a beam search is over, beside its limit of tokens.

    Attributes:
        HEURISTIC: ``beam_size`` hypotheses have ended, and the best live one, if it ended now, would be worse than the
            worst of them (transformers' ``early_stopping=False``).
        FULL: ``beam_size`` hypotheses have ended (``early_stopping=True``).
        EXHAUSTIVE: as HEURISTIC, but with the best score that the live one could still come to (``"never"``).
        PATIENCE: ``beam_size * patience`` hypotheses have ended, halves rounded up, as in CTranslate2. With no length
            penalty (0), instead, whatever the patience: the best candidate of some step has ended, and
            ``num_hypotheses`` in all.
    """

    HEURISTIC = "heuristic"
    FULL = "full"
    EXHAUSTIVE = "exhaustive"
    PATIENCE = "patience"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn instead of chosen, in this order, as transformers does.

    Attributes:
        temperature: Logits are divided by it; over 0.
        top_k: Only so many best tokens are drawn from; 0 is all.
        top_p: Of those only the best whose probabilities together reach this; over 0, at most 1.
        seed: With the number of the step, all the chance there is: 0 .. 2**64 - 1. None until the door has chosen one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How one request's tokens are chosen; checked at the door.

    Attributes:
        end_id: The end token.
        max_new_tokens: Most generated tokens, the end token included; at least 1.
        min_new_tokens: The end token is not chosen while fewer tokens than this were generated.
        forced_end: Whether the last token that the limit allows is the end token, with a log-probability of 0. The
            answer has ended for its length all the same.
        beam_size: Most live hypotheses.
        num_hypotheses: How many to return, at most ``beam_size``.
        length_penalty: Scores are sums of log-probabilities, divided by the length, end token included, to this power.
        patience: See ``Stopping.PATIENCE``; over 0.
        extra_length: Added to every length that scores are divided by: forced tokens that the source library counts.
        repetition_penalty: What came before, the prompt included, has its logit (of a beam search: its log-probability)
            divided by this where it is positive, else multiplied; over 0, and 1 changes nothing. As transformers does.
        no_repeat_ngram_size: No sequence of so many tokens comes twice, the prompt included; 0 is off.
        suppressed: Sequences that are not generated: their last token does not follow the others.
        sampling: How tokens are drawn, or None where the best are chosen; only with one beam.
        favoured: What the answer begins with if nothing speaks against it: see ``prefix_bias``.
        prefix_bias: As long as a hypothesis follows ``favoured``, the probability p of the next token of it becomes
            ``prefix_bias + (1 - prefix_bias) * p``, and that of others ``(1 - prefix_bias) * p``. As CTranslate2 does.
        alternatives: How many different first tokens are taken, best first, and each completed as a search of its own;
            0 is off. The score of one is the log-probability of its first token plus the score of the rest, as in
            CTranslate2.
        least_probability: Alternatives whose first token is less probable are left out, the best excepted.
        required: Phrases that every answer holds, each at least once, in any order; only with several beams, and
            without penalties and n-grams. Together no longer than ``max_new_tokens`` allows.
        coverage_penalty: Where it is not 0, all hypotheses that ended are returned, for who can see their attention to
            put in order; and as in CTranslate2 no length penalty of 0 ends a search early.
        stop: Texts at which the answer ends, or None; only with one beam, and no alternatives.
        renormalise: As CTranslate2 has it: with any of these four, penalties and bans change logits, the end token's
            too where it may not come yet, and log-probabilities are those of what is left; and the start token is none
            that came before. And where a prefix was forced (``extra_length``), no hypothesis of several ends at once
            that is not the best.
    """

    end_id: int
    max_new_tokens: int
    min_new_tokens: int = 0
    forced_end: bool = False
    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    patience: float = 1.0
    stopping: Stopping = Stopping.HEURISTIC
    extra_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppressed: tuple[tuple[int, ...], ...] = ()
    sampling: Sampling | None = None
    favoured: tuple[int, ...] = ()
    prefix_bias: float = 0.0
    alternatives: int = 0
    least_probability: float = 0.0
    required: tuple[tuple[int, ...], ...] = ()
    coverage_penalty: float = 0.0
    renormalise: bool = False
    stop: StopTexts | None = None

    @property
    def rows(self) -> int:
        """Most live hypotheses, of all alternatives together."""
        return self.beam_size * max(self.alternatives, 1)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A sequence that a search found.

    Attributes:
        token_ids: Without the end token.
        log_probs: One per generated token, the end token's included: the model's own, whatever was banned; in a beam
            search with ``repetition_penalty``, and where the settings say ``renormalise``, those after the rules.
        score: See ``SearchSettings.length_penalty``; 0 for nothing generated.
        ended: Whether the model chose to end it, and no limit.
        stopped: Whether a stop text ended it.
    """

    token_ids: list[int]
    log_probs: list[float]
    score: float
    ended: bool
    stopped: bool = False


class Continuation(NamedTuple):
    """A live hypothesis after a step: the one at ``parent`` among those before it, and a token more."""

    parent: int
    token: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step came to.

    Attributes:
        live: The hypotheses that live on, in the search's order; none when it is over.
        stable: Tokens that every answer the search can still give begins with, beyond those told before. When it is
            over: the rest of the best answer.
        found: Best first, when it is over; else None.
    """

    live: list[Continuation]
    stable: list[int]
    found: list[Hypothesis] | None = None


class Search(Protocol):
    """Chooses the tokens of one request."""

    @property
    def candidates(self) -> int:
        """How many best tokens of each live hypothesis the next step has to bring."""

    @property
    def wants_logits(self) -> bool:
        """Whether the next step has to bring all logits, too: best tokens alone do not say enough."""

    def advance(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]],
        logits: Sequence[NDArray[np.float32]] = (),
    ) -> Advance:
        """Take one step.

        Args:
            token_ids, log_probs: For each live hypothesis, in the search's order, at least ``candidates`` next tokens,
                or all that may come, of which there is one; best first, ties to the lower id. Finite.
            logits: For each live hypothesis [vocabulary], where they are wanted; read only.
        """

    def so_far(self) -> Hypothesis:
        """The best hypothesis now, for a request that is ended from outside."""


def normalised(total: float, length: int, settings: SearchSettings) -> float:
    """Score of a hypothesis of ``length`` tokens whose log-probabilities add up to ``total``.

    Wu et al. 2016 (section 7) without their constants, as transformers and CTranslate2 have it.
    """
    return total / (length + settings.extra_length) ** settings.length_penalty if length else 0.0
