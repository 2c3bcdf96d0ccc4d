"""Answers in the client's form, from a bundle in this process: what ``seqserve generate --model`` uses."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seqserve_server.admission import Resolved, check_tenant, resolve_options
from seqserve_server.answers import Answer, Asked, GrowingAnswer, answer_of, with_attention
from seqserve_server.attention import check_attention, pairs_of, scorable, weights_of
from seqserve_server.inputs import MAX_TEXT_BYTES, Content, read_limited_source, read_stop, read_target
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished, Request
from seqserve_server.scores import Given, Score, read_pairs, score_of
from seqserve_server.scoring import ScoreOptions
from seqserve_server.search_options import Options, most_beams, read_stopping
from seqserve_server.token_options import seeded


@dataclass(frozen=True, slots=True)
class Chunk:
    """As the client's."""

    text: str
    token_ids: list[int]
    result: Answer | None = None


class InProcess:
    """A bundle's answers. Not for several threads.

    ``priority`` and ``tenant`` are checked as a server checks them and change nothing: there is one caller.
    """

    def __init__(self, local: LocalModel) -> None:
        self._local = local

    def generate(self, kind: str, contents: Sequence[Content], **options: Any) -> list[Answer]:
        """One result per input.

        Args:
            kind: "text", "tokens" or "token_ids".
            options: The client's: ``Options`` by name, the stopping rule as a word, single ids to suppress as such, a
                prefix as text, tokens or ids.

        Raises:
            InvalidRequest: naming ``inputs[i]`` or the option.
        """
        resolved = self._resolve(options)
        asked = [self._read(kind, content, resolved, f"inputs[{place}]") for place, content in enumerate(contents)]
        ended = self._local.generate(
            [each.request.source for each in asked], [resolved.prompt] * len(asked),
            searches=[each.request.search for each in asked],
        )
        return [self._answer(end, each) for each, end in zip(asked, ended, strict=True)]

    def stream(self, kind: str, content: Content, **options: Any) -> Iterator[Chunk]:
        """Tokens of one input as they become final; the last chunk has the result. Arguments as for ``generate``."""
        asked = self._read(kind, content, self._resolve(options, streamed=True), "input")
        request, growing = asked.request, GrowingAnswer(asked, self._local.served.tokenizer)
        for part in self._local.stream(request.source, request.prompt, search=request.search):
            if isinstance(part, Finished):
                answer = self._answer(part, asked)
                text, ids = growing.finish(answer)
                yield Chunk(text, ids, answer)
            else:
                text, ids = growing.push(part)
                yield Chunk(text, ids)

    @property
    def alignment_source(self) -> str:
        """The model, and whose attention its alignments are; empty where it has none."""
        description = self._local.description
        return f"{description.name}: {description.alignment}" if description.alignment is not None else ""

    def score(self, pairs: Sequence[tuple[Given, Given]], **options: Any) -> list[Score]:
        """One result per pair of a source and a target, each with its kind.

        Args:
            options: The client's: ``ScoreOptions`` by name.

        Raises:
            NoScorer: the bundle has none.
            InvalidRequest: naming ``pairs[i]`` or the option.
        """
        served = self._local.served
        check_tenant(options.pop("tenant", None) or "", "options.tenant")
        asked = read_pairs(pairs, ScoreOptions(**options), served, max_text_bytes=MAX_TEXT_BYTES)
        ended = self._local.score_pairs([each.request for each in asked])
        return [score_of(end, each, served) for each, end in zip(asked, ended, strict=True)]

    def _answer(self, ended: Finished, asked: Asked) -> Answer:
        """After a pass of the scorer where the options ask for attention."""
        served = self._local.served
        if not asked.options.wants_attention:
            return answer_of(ended, asked, served.tokenizer)
        pairs = pairs_of(ended, asked.request, asked.options, served.description.eos_id)
        scored = self._local.score_pairs([pair for pair in pairs if scorable(pair)])
        return with_attention(ended, weights_of(pairs, iter(scored)), asked, served)

    def _resolve(self, options: dict[str, Any], *, streamed: bool = False) -> Resolved:
        options, served = dict(options), self._local.served
        check_tenant(options.pop("tenant", None) or "", "options.tenant")  # nobody else is here to share with
        if (word := options.get("stopping")) is not None:
            options["stopping"] = read_stopping(word)
        if (sequences := options.get("suppress_tokens")) is not None:
            options["suppress_tokens"] = [[each] if isinstance(each, int) else list(each) for each in sequences]

        def target(content: Content, field: str) -> tuple[int, ...]:
            return read_target(_kind_of(content), content, served.description, served.tokenizer, field)

        if (prefix := options.get("prefix")) is not None:
            options["prefix"] = target(prefix, "options.prefix")
        for name in ("required_phrases", "banned_phrases"):
            if (phrases := options.get(name)) is not None:
                options[name] = tuple(target(each, f"options.{name}[{place}]") for place, each in enumerate(phrases))
        if options.get("stop") is not None:
            options["stop"] = read_stop(options["stop"], served.tokenizer)
        resolved = resolve_options(Options(**options), served.description, most_beams(served.limits.max_rows))
        check_attention(resolved, served.tokenizer, can_score=served.engine.can_score, streamed=streamed)
        return resolved

    def _read(self, kind: str, content: Content, options: Resolved, field: str) -> Asked:
        served = self._local.served
        source, truncated = read_limited_source(
            kind, content, served.description, options.frame, served.tokenizer, field, options.source_limit
        )
        search = seeded(options.search, secrets.randbits(64))
        return Asked(Request(0, source, options.prompt, search), options, truncated)


def _kind_of(content: Content) -> str:
    if isinstance(content, str):
        return "text"
    return "tokens" if content and isinstance(content[0], str) else "token_ids"
