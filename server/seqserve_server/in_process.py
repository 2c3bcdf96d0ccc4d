"""Answers in the client's form, from a bundle in this process: what ``seqserve generate --model`` uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqserve.framing import Frame
from seqserve_server.admission import frame_of
from seqserve_server.inputs import Content, read_source
from seqserve_server.local import Generated, LocalModel
from seqserve_server.request import Durations
from seqserve_server.tokenizer import IncrementalDetokenizer


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """As the client's."""

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """As the client's."""

    hypotheses: list[Hypothesis]
    finish_reason: str
    input_token_count: int
    output_token_count: int
    timing: Durations


@dataclass(frozen=True, slots=True)
class Chunk:
    """As the client's."""

    text: str
    token_ids: list[int]
    result: Result | None = None


class InProcess:
    """A bundle's answers. Not for several threads."""

    def __init__(self, local: LocalModel) -> None:
        self._local = local

    def generate(
        self, kind: str, contents: Sequence[Content], *, max_new_tokens: int | None, min_new_tokens: int | None,
        source_language: str | None = None, target_language: str | None = None,
    ) -> list[Result]:
        """One result per input. ``kind`` is "text", "tokens" or "token_ids"; errors name ``inputs[i]``."""
        frame = frame_of(source_language, target_language, self._local.description)
        sources = [self._read(kind, content, frame, f"inputs[{place}]") for place, content in enumerate(contents)]
        generated = self._local.generate(
            sources, [frame.prompt] * len(sources), max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens
        )
        return [self._result(entry, len(source)) for entry, source in zip(generated, sources, strict=True)]

    def stream(
        self, kind: str, content: Content, *, max_new_tokens: int | None, min_new_tokens: int | None,
        source_language: str | None = None, target_language: str | None = None,
    ) -> Iterator[Chunk]:
        """Tokens of one input as they are chosen; the last chunk carries the result."""
        frame = frame_of(source_language, target_language, self._local.description)
        source, tokenizer = self._read(kind, content, frame, "input"), self._local.served.tokenizer
        detokenizer = IncrementalDetokenizer(tokenizer) if tokenizer is not None else None
        for part in self._local.stream(
            source, frame.prompt, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens
        ):
            if isinstance(part, Generated):
                result = self._result(part, len(source))
                rest = detokenizer.finish(result.hypotheses[0].text) if detokenizer is not None else ""
                yield Chunk(rest, [], result)
            else:
                yield Chunk(detokenizer.push(part) if detokenizer is not None else "", part)

    def _read(self, kind: str, content: Content, frame: Frame, field: str) -> tuple[int, ...]:
        return read_source(kind, content, self._local.description, frame, self._local.served.tokenizer, field)

    def _result(self, generated: Generated, input_tokens: int) -> Result:
        tokenizer, ids = self._local.served.tokenizer, generated.token_ids
        text = tokenizer.decode(ids) if tokenizer is not None else ""
        tokens = tokenizer.tokens(ids) if tokenizer is not None else []
        return Result(
            [Hypothesis(text, tokens, ids, generated.score)], generated.finish_reason, input_tokens,
            len(generated.log_probs), generated.times.durations(),
        )
