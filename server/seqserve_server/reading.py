"""Contents and options of a call to requests that are checked and complete, whatever protocol they came by."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from seqserve_server.admission import Resolved, check_memory, resolve_options
from seqserve_server.answers import Asked
from seqserve_server.attention import check_attention
from seqserve_server.inputs import MAX_TEXT_BYTES, Content, read_limited_source, read_stop, read_target
from seqserve_server.request import Request
from seqserve_server.search_options import Options, most_beams, read_stopping
from seqserve_server.served_model import ServedModel
from seqserve_server.token_options import seeded


def read_requests(
    contents: Sequence[tuple[str, Content]], names: Sequence[str], options: Resolved, model: ServedModel, *,
    streamed: bool, max_text_bytes: int, deadline: float | None, tenant: str = "",
) -> list[Asked]:
    """Check inputs, and options against how they are answered; tokenise text, and complete every source.

    Args:
        contents: Each with its kind: "text", "tokens" or "token_ids".
        names: What errors call each.
        streamed: Whether tokens are told as they come.

    Raises:
        InvalidRequest: naming the input or the option, and the limit. Nothing has been started then.
        NoScorer: something is asked for that needs one.
    """
    check_attention(options, model.tokenizer, can_score=model.engine.can_score, streamed=streamed)
    return [
        _read(kind, content, name, options, model, max_text_bytes, deadline, tenant)
        for (kind, content), name in zip(contents, names, strict=True)
    ]


def resolve(options: Options, model: ServedModel) -> Resolved:
    """Options with defaults filled in, checked against the model and each other.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    return resolve_options(options, model.description, most_beams(model.limits.max_rows))


def _read(
    kind: str, content: Content, name: str, options: Resolved, model: ServedModel, max_text_bytes: int,
    deadline: float | None, tenant: str,
) -> Asked:
    source, truncated = read_limited_source(
        kind, content, model.description, options.frame, model.tokenizer, name, options.source_limit,
        max_text_bytes=max_text_bytes,
    )
    search = options.search
    if search.sampling is not None:
        search = seeded(search, secrets.randbits(64))  # here, for what is behind knows no chance
    request = Request(
        0, source, options.prompt, search, deadline=deadline, priority=options.priority, tenant=tenant
    )
    check_memory(request, model.limits)
    return Asked(request, options, truncated)


def named_options(
    given: Mapping[str, Any], model: ServedModel, *, max_text_bytes: int = MAX_TEXT_BYTES
) -> Options:
    """Options by the names and in the forms of the Python client: the stopping rule as a word, single ids to suppress
    as such, a prefix and phrases as text, tokens or ids.

    Raises:
        InvalidRequest: an unknown stopping rule, unknown tokens or ids, or text where the bundle has no tokenizer.
    """
    options = dict(given)
    if (word := options.get("stopping")) is not None:
        options["stopping"] = read_stopping(word)
    if (sequences := options.get("suppress_tokens")) is not None:
        options["suppress_tokens"] = [[each] if isinstance(each, int) else list(each) for each in sequences]

    def target(content: Content, field: str) -> tuple[int, ...]:
        return read_target(
            _kind_of(content), content, model.description, model.tokenizer, field, max_text_bytes=max_text_bytes
        )

    if (prefix := options.get("prefix")) is not None:
        options["prefix"] = target(prefix, "options.prefix")
    for name in ("required_phrases", "banned_phrases"):
        if (phrases := options.get(name)) is not None:
            options[name] = tuple(target(each, f"options.{name}[{place}]") for place, each in enumerate(phrases))
    if options.get("stop") is not None:
        options["stop"] = read_stop(options["stop"], model.tokenizer)
    return Options(**options)


def _kind_of(content: Content) -> str:
    if isinstance(content, str):
        return "text"
    return "tokens" if content and isinstance(content[0], str) else "token_ids"
