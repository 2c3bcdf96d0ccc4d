"""What a caller gets for one input, before it takes the wire's form: the same from a server and in-process."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqserve_server.admission import Resolved
from seqserve_server.decoding import search
from seqserve_server.decoding.stop_texts import StoppingText
from seqserve_server.request import Durations, Finished, Request
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
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    token_log_probs: list[float]


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
