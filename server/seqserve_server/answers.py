"""What a caller gets for one input, before it takes the wire's form: the same from a server and in-process."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from seqserve_server.admission import Resolved
from seqserve_server.attention import Attended, Weights, covered, unknown_target_id, without_unknowns
from seqserve_server.decoding import search
from seqserve_server.decoding.stop_texts import StoppingText
from seqserve_server.request import Durations, Finished, Request
from seqserve_server.served_model import ServedModel
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer


@dataclass(frozen=True, slots=True)
class Asked:
    """One input: what is decoded, the options that say what is told of it, and how many source tokens were cut off."""

    request: Request
    options: Resolved
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """As the wire's.

    Attributes:
        token_log_probs: Of generated tokens, the end token's included; empty where they were not asked for.
        alignment: For each of ``token_ids`` the weight of each source token; None where it was not asked for.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    token_log_probs: list[float]
    alignment: list[list[float]] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """As the wire's ``GenerationResult``. ``seed`` is None where tokens were not drawn."""

    hypotheses: list[Hypothesis]
    finish_reason: str
    input_token_count: int
    output_token_count: int
    timing: Durations
    seed: int | None
    truncated_token_count: int = 0
    source_tokens: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a streamed answer; only the last one has the whole."""

    text: str
    token_ids: list[int]
    result: Answer | None = None


def answer_of(ended: Finished, asked: Asked, tokenizer: Tokenizer | None) -> Answer:
    """The answer to one input: every hypothesis, the forced prefix before what was generated."""
    sampling = asked.request.search.sampling
    return Answer(
        hypotheses=[_hypothesis(found, asked.options, tokenizer) for found in ended.hypotheses],
        finish_reason=ended.reason.value,
        input_token_count=len(asked.request.source),
        output_token_count=len(ended.log_probs),
        timing=ended.times.durations(),
        seed=None if sampling is None else sampling.seed,
        truncated_token_count=asked.truncated,
    )


def with_attention(ended: Finished, weights: Sequence[Weights], asked: Asked, model: ServedModel) -> Answer:
    """The answer to an input whose options ask for attention.

    Args:
        weights: Of each hypothesis, rows for its prefix and its tokens at least.
    """
    attended, tokenizer = covered(Attended(ended, list(weights)), asked.options), model.tokenizer
    answer = answer_of(attended.ended, asked, tokenizer)
    hypotheses = [
        _attended(each, rows, asked, model) for each, rows in zip(answer.hypotheses, attended.weights, strict=True)
    ]
    named = asked.options.return_alignment and tokenizer is not None
    source_tokens = tokenizer.source_tokens(asked.request.source) if named and tokenizer is not None else []
    return replace(answer, hypotheses=hypotheses, source_tokens=source_tokens)


def _attended(hypothesis: Hypothesis, weights: Weights, asked: Asked, model: ServedModel) -> Hypothesis:
    options, tokenizer, ids = asked.options, model.tokenizer, hypothesis.token_ids
    unknown = unknown_target_id(model.description, tokenizer)
    if options.replace_unknowns and tokenizer is not None and unknown is not None and unknown in ids:
        tokens = without_unknowns(ids, weights, asked.request, options, unknown, tokenizer)
        hypothesis = replace(hypothesis, tokens=tokens, text=tokenizer.join(tokens))
    if options.return_alignment:
        hypothesis = replace(hypothesis, alignment=weights[: len(ids)].tolist())
    return hypothesis


def _hypothesis(found: search.Hypothesis, options: Resolved, tokenizer: Tokenizer | None) -> Hypothesis:
    token_ids, stop = [*options.prefix, *found.token_ids], options.search.stop
    text = tokenizer.decode(token_ids) if tokenizer is not None and stop is None else ""
    return Hypothesis(
        text=text if stop is None else stop.answer(found.token_ids),
        tokens=tokenizer.tokens(token_ids) if tokenizer is not None else [],
        token_ids=token_ids,
        score=found.score,
        token_log_probs=list(found.log_probs) if options.return_logprobs else [],
    )


class GrowingAnswer:
    """Parts of a streamed answer: together they are the whole one's text and ids, the forced prefix included."""

    def __init__(self, asked: Asked, tokenizer: Tokenizer | None) -> None:
        self._owed: Sequence[int] = asked.options.prefix
        self._detokenizer = IncrementalDetokenizer(tokenizer) if tokenizer is not None else None
        stop = asked.options.search.stop
        self._stopping = None if stop is None else StoppingText(stop)

    def push(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """Tokens that became final; what to send of text and ids."""
        sent, self._owed = [*self._owed, *token_ids], ()
        if self._stopping is not None:
            return self._stopping.push(token_ids), sent
        return self._detokenizer.push(sent) if self._detokenizer is not None else "", sent

    def finish(self, answer: Answer) -> tuple[str, list[int]]:
        """What is still owed of both when the answer is there."""
        rest, self._owed = list(self._owed), ()
        if self._stopping is not None:
            return self._stopping.finish(), rest
        return self._detokenizer.finish(answer.hypotheses[0].text) if self._detokenizer is not None else "", rest
