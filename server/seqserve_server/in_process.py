"""Answers in the client's form, from a bundle in this process: what ``seqserve generate --model`` uses."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seqserve.framing import Frame
from seqserve_server.admission import Options, Resolved, most_beams, read_stopping, resolve_options
from seqserve_server.decoding import search
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.inputs import Content, read_source
from seqserve_server.local import LocalModel
from seqserve_server.request import Durations, Finished
from seqserve_server.token_options import seeded
from seqserve_server.tokenizer import IncrementalDetokenizer


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """As the client's."""

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    token_log_probs: list[float]


@dataclass(frozen=True, slots=True)
class Result:
    """As the client's."""

    hypotheses: list[Hypothesis]
    finish_reason: str
    input_token_count: int
    output_token_count: int
    timing: Durations
    seed: int | None


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
            options: The client's: ``Options`` by name, the stopping rule as a word, single ids to suppress as such.

        Raises:
            InvalidRequest: naming ``inputs[i]`` or the option.
        """
        resolved = self._resolve(options)
        frame = resolved.frame
        sources = [self._read(kind, content, frame, f"inputs[{place}]") for place, content in enumerate(contents)]
        searches = [_seeded(resolved) for _ in sources]
        generated = self._local.generate(sources, [frame.prompt] * len(sources), searches=searches)
        return [
            self._result(entry, len(source), search, resolved)
            for entry, source, search in zip(generated, sources, searches, strict=True)
        ]

    def stream(self, kind: str, content: Content, **options: Any) -> Iterator[Chunk]:
        """Tokens of one input as they become final; the last chunk has the result. Arguments as for ``generate``."""
        resolved = self._resolve(options)
        source = self._read(kind, content, resolved.frame, "input")
        tokenizer = self._local.served.tokenizer
        detokenizer = IncrementalDetokenizer(tokenizer) if tokenizer is not None else None
        chosen = _seeded(resolved)
        for part in self._local.stream(source, resolved.frame.prompt, search=chosen):
            if isinstance(part, Finished):
                result = self._result(part, len(source), chosen, resolved)
                rest = detokenizer.finish(result.hypotheses[0].text) if detokenizer is not None else ""
                yield Chunk(rest, [], result)
            else:
                yield Chunk(detokenizer.push(part) if detokenizer is not None else "", part)

    def _resolve(self, options: dict[str, Any]) -> Resolved:
        if (word := options.get("stopping")) is not None:
            options = {**options, "stopping": read_stopping(word)}
        if (sequences := options.get("suppress_tokens")) is not None:
            lists = [[each] if isinstance(each, int) else list(each) for each in sequences]
            options = {**options, "suppress_tokens": lists}
        served = self._local.served
        return resolve_options(Options(**options), served.description, most_beams(served.limits.max_rows))

    def _read(self, kind: str, content: Content, frame: Frame, field: str) -> tuple[int, ...]:
        return read_source(kind, content, self._local.description, frame, self._local.served.tokenizer, field)

    def _result(
        self, generated: Finished, input_tokens: int, chosen: SearchSettings, resolved: Resolved
    ) -> Result:
        return Result(
            [self._hypothesis(found, logprobs=resolved.return_logprobs) for found in generated.hypotheses],
            generated.finish_reason, input_tokens, len(generated.log_probs), generated.times.durations(),
            None if chosen.sampling is None else chosen.sampling.seed,
        )

    def _hypothesis(self, found: search.Hypothesis, *, logprobs: bool) -> Hypothesis:
        tokenizer, ids = self._local.served.tokenizer, found.token_ids
        text = tokenizer.decode(ids) if tokenizer is not None else ""
        pieces = tokenizer.tokens(ids) if tokenizer is not None else []
        return Hypothesis(text, pieces, ids, found.score, found.log_probs if logprobs else [])


def _seeded(resolved: Resolved) -> SearchSettings:
    """The search of one input, with a seed of its own where tokens are drawn and the caller gave none."""
    return seeded(resolved.search, secrets.randbits(64))
