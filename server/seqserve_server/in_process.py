"""Answers in the client's form, from a bundle in this process: what ``seqserve generate --model`` uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seqserve.framing import Frame
from seqserve_server.admission import Options, Resolved, most_beams, read_stopping, resolve_options
from seqserve_server.decoding import search
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

    def generate(self, kind: str, contents: Sequence[Content], **options: Any) -> list[Result]:
        """One result per input.

        Args:
            kind: "text", "tokens" or "token_ids".
            options: The client's: ``Options`` by name, the stopping rule as a word.

        Raises:
            InvalidRequest: naming ``inputs[i]`` or the option.
        """
        resolved = self._resolve(options)
        frame = resolved.frame
        sources = [self._read(kind, content, frame, f"inputs[{place}]") for place, content in enumerate(contents)]
        generated = self._local.generate(
            sources, [frame.prompt] * len(sources), searches=[resolved.search] * len(sources)
        )
        return [self._result(entry, len(source)) for entry, source in zip(generated, sources, strict=True)]

    def stream(self, kind: str, content: Content, **options: Any) -> Iterator[Chunk]:
        """Tokens of one input as they become final; the last chunk has the result. Arguments as for ``generate``."""
        resolved = self._resolve(options)
        source = self._read(kind, content, resolved.frame, "input")
        tokenizer = self._local.served.tokenizer
        detokenizer = IncrementalDetokenizer(tokenizer) if tokenizer is not None else None
        for part in self._local.stream(source, resolved.frame.prompt, search=resolved.search):
            if isinstance(part, Generated):
                result = self._result(part, len(source))
                rest = detokenizer.finish(result.hypotheses[0].text) if detokenizer is not None else ""
                yield Chunk(rest, [], result)
            else:
                yield Chunk(detokenizer.push(part) if detokenizer is not None else "", part)

    def _resolve(self, options: dict[str, Any]) -> Resolved:
        if (word := options.get("stopping")) is not None:
            options = {**options, "stopping": read_stopping(word)}
        served = self._local.served
        return resolve_options(Options(**options), served.description, most_beams(served.limits.max_rows))

    def _read(self, kind: str, content: Content, frame: Frame, field: str) -> tuple[int, ...]:
        return read_source(kind, content, self._local.description, frame, self._local.served.tokenizer, field)

    def _result(self, generated: Generated, input_tokens: int) -> Result:
        return Result(
            [self._hypothesis(found) for found in generated.hypotheses], generated.finish_reason, input_tokens,
            len(generated.log_probs), generated.times.durations(),
        )

    def _hypothesis(self, found: search.Hypothesis) -> Hypothesis:
        tokenizer, ids = self._local.served.tokenizer, found.token_ids
        text = tokenizer.decode(ids) if tokenizer is not None else ""
        return Hypothesis(text, tokenizer.tokens(ids) if tokenizer is not None else [], ids, found.score)
