"""What a caller gets for one pair, before it takes the wire's form: the same from a server and in-process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_server.errors import NoScorer
from seqserve_server.inputs import Content, read_source, read_target
from seqserve_server.request import PairScored, ScoreRequest
from seqserve_server.scoring import ScoreOptions, Scoring, resolve_scoring, score_request
from seqserve_server.served_model import ServedModel

Given = tuple[str, Content]
"""A kind, "text", "tokens" or "token_ids", and what there is of it."""


@dataclass(frozen=True, slots=True)
class AskedPair:
    """One pair: what is scored, and the options that say what is told of it."""

    request: ScoreRequest
    options: Scoring


@dataclass(frozen=True, slots=True)
class Score:
    """As the wire's ``ScoreResult``.

    Attributes:
        alignment: float32 [token_ids, source]; None where it was not asked for.
        source_tokens: Its columns; empty without it, or without a tokenizer.
    """

    score: float
    token_log_probs: list[float]
    token_ids: list[int]
    tokens: list[str]
    input_token_count: int
    alignment: NDArray[np.float32] | None
    source_tokens: list[str]


def read_pairs(
    pairs: Sequence[tuple[Given, Given]], options: ScoreOptions, model: ServedModel, *,
    max_text_bytes: int, deadline: float | None = None, tenant: str = "",
) -> list[AskedPair]:
    """Check pairs of source and target, and options; tokenise texts, complete sources.

    Raises:
        NoScorer: the model cannot score.
        InvalidRequest: naming the field and the limit. Nothing has been started then.
    """
    if not model.engine.can_score:
        raise NoScorer
    description, tokenizer = model.description, model.tokenizer
    scoring = resolve_scoring(options, description, model.engine.choosable_heads)
    asked = []
    for place, ((source_kind, source), (target_kind, target)) in enumerate(pairs):
        field = f"pairs[{place}]"
        complete = read_source(
            source_kind, source, description, scoring.frame, tokenizer, f"{field}.source", max_text_bytes=max_text_bytes
        )
        content = read_target(
            target_kind, target, description, tokenizer, f"{field}.target", max_text_bytes=max_text_bytes
        )
        name = f"{field}.target.{target_kind}"
        request = score_request(
            complete, content, scoring, description, name, deadline=deadline, tenant=tenant
        )
        asked.append(AskedPair(request, scoring))
    return asked


def score_of(ended: PairScored, asked: AskedPair, model: ServedModel) -> Score:
    """The answer to one pair. The end token has a log-probability, but neither an id here nor a row of attention."""
    pair, tokenizer = asked.request.pair, model.tokenizer
    token_ids = list(pair.target[pair.prompt : -1])
    aligned = asked.options.return_alignment
    return Score(
        score=asked.options.score(ended.log_probs),
        token_log_probs=ended.log_probs,
        token_ids=token_ids,
        tokens=tokenizer.tokens(token_ids) if tokenizer is not None else [],
        input_token_count=len(pair.source),
        alignment=ended.alignment[:-1] if aligned else None,
        source_tokens=tokenizer.source_tokens(pair.source) if aligned and tokenizer is not None else [],
    )
