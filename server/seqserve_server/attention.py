"""What answers make of their attention: alignments, coverage that puts hypotheses in order, unknown tokens replaced.

A search knows no attention. Once it is over, its hypotheses go through the scorer like any pairs, for those who asked;
nobody else waits for it. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seqserve.bundle import ModelDescription
from seqserve_server.admission import Resolved
from seqserve_server.engine import Pair
from seqserve_server.errors import InvalidRequest, NoScorer
from seqserve_server.request import Finished, FinishReason, PairScored, Request, ScoreRequest
from seqserve_server.tokenizer import Tokenizer

Weights = NDArray[np.float32]  # [target, source]


@dataclass(frozen=True, slots=True)
class Attended:
    """An ended request, and the attention of each of its hypotheses: rows for its prefix, its tokens, and its end."""

    ended: Finished
    weights: list[Weights]


def check_attention(options: Resolved, tokenizer: Tokenizer | None, *, can_score: bool, streamed: bool) -> None:
    """What is asked for can be told.

    Raises:
        NoScorer: the model cannot, whoever asks.
        InvalidRequest: not in a stream, or not without a tokenizer.
    """
    if not options.wants_attention:
        return
    if not can_score:
        raise NoScorer
    if streamed and options.search.coverage_penalty:
        raise InvalidRequest("options.coverage_penalty", "it orders ended answers, of which a stream has told before")
    if streamed and options.replace_unknowns:
        raise InvalidRequest("options.replace_unknowns", "a stream has told the text before the attention is known")
    if options.replace_unknowns and tokenizer is None:
        raise InvalidRequest("options.replace_unknowns", "this model has no tokenizer, and so no words")


def pairs_of(ended: Finished, request: Request, options: Resolved, end_id: int) -> list[ScoreRequest]:
    """Each hypothesis as a pair to score; the prefix is scored, too, for its attention.

    An answer that was cut off has no end: the position behind its last token may be one that the model has not.
    """
    prompt = options.frame.prompt
    return [
        ScoreRequest(
            0,
            Pair(request.source, (*options.prompt, *found.token_ids, *([end_id] if found.ended else [])), len(prompt)),
            deadline=request.deadline, priority=request.priority, tenant=request.tenant,
        )
        for found in ended.hypotheses
    ]


def scorable(request: ScoreRequest) -> bool:
    """Whether there is anything behind the prompt."""
    return len(request.pair.target) > request.pair.prompt


def weights_of(pairs: Sequence[ScoreRequest], scored: Iterator[PairScored]) -> list[Weights]:
    """The attention of each pair: the next that was scored, or without rows where there was nothing to score."""
    return [
        next(scored).alignment if scorable(pair) else np.zeros((0, len(pair.pair.source)), dtype=np.float32)
        for pair in pairs
    ]


def covered(attended: Attended, options: Resolved) -> Attended:
    """With the coverage penalty in scores, in the order of those, and no more than were asked for.

    Wu et al. 2016 (equation 14): the penalty is the sum over source tokens of log(min(1, attention in all)); like
    CTranslate2, without those that got none.
    """
    weight = options.search.coverage_penalty
    if not weight:
        return attended
    scored = [
        (replace(found, score=found.score + weight * coverage(weights)), weights)
        for found, weights in zip(attended.ended.hypotheses, attended.weights, strict=True)
    ]
    scored.sort(key=lambda each: -each[0].score)  # of equal ones the search's order stays
    best = scored[: options.search.num_hypotheses]
    ended = replace(
        attended.ended, hypotheses=[found for found, _ in best], reason=FinishReason.of(best[0][0])
    )
    return Attended(ended, [weights for _, weights in best])


def coverage(weights: Weights) -> float:
    """Of the attention [target, source] of one hypothesis; at most 0."""
    total = weights.astype(np.float64).sum(axis=0)
    return float(np.log(np.minimum(total[total > 0], 1.0)).sum())


def without_unknowns(
    token_ids: Sequence[int], weights: Weights, request: Request, options: Resolved, unknown: int, tokenizer: Tokenizer
) -> list[str]:
    """Tokens of an answer, and where one is unknown, the source token of content that it attended to most."""
    first, last = len(options.frame.prefix), len(request.source) - len(options.frame.suffix)
    content = tokenizer.source_tokens(request.source[first:last])
    tokens = tokenizer.tokens(token_ids)
    for place, token_id in enumerate(token_ids):
        if token_id == unknown and content:
            tokens[place] = content[int(weights[place, first:last].argmax())]
    return tokens


def unknown_target_id(model: ModelDescription, tokenizer: Tokenizer | None) -> int | None:
    """The target's id of unknown content; ``unk_id`` is the source's."""
    if model.unk_id is None or tokenizer is None:
        return None
    return tokenizer.target_id_of(tokenizer.source_tokens([model.unk_id])[0])
