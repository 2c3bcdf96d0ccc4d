"""May this request enter? Source ids and options in, a :class:`Request` or a refusal out. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame, LanguageError
from seqserve_server.capacity import SchedulerLimits
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.errors import InputTooLong, InvalidRequest
from seqserve_server.plan import need_of
from seqserve_server.request import Request
from seqserve_server.search_options import Options, resolve_prefix, resolve_search

Item = TypeVar("Item")
MOST_PRIORITY = 10  # and the lowest is as far below 0
MAX_TENANT_LENGTH = 64
_TENANT = re.compile(rf"[A-Za-z0-9._-]{{0,{MAX_TENANT_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class SourceLimit:
    """Most tokens of a source, special tokens included, and whether what is over is cut off or refused."""

    most: int
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """Options with defaults filled in, all within the model's limits. ``frame`` is what the languages make of it.

    A search that draws has a seed only where the caller gave one: see ``seeded``.
    """

    search: SearchSettings
    frame: Frame
    prefix: tuple[int, ...] = ()
    return_logprobs: bool = False
    return_alignment: bool = False
    replace_unknowns: bool = False
    source_limit: SourceLimit | None = None
    priority: int = 0

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the decoder is fed before it chooses."""
        return self.frame.prompt + self.prefix

    @property
    def wants_attention(self) -> bool:
        """Whether answers need a pass of the scorer."""
        return self.return_alignment or self.replace_unknowns or self.search.coverage_penalty != 0


def resolve_options(options: Options, model: ModelDescription, max_beam_size: int) -> Resolved:
    """Fill in defaults and check every option against the model and the others.

    Args:
        max_beam_size: See ``most_beams``.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    search = resolve_search(options, model, max_beam_size)
    frame = frame_of(options.source_language, options.target_language, model)
    return Resolved(
        search, frame, resolve_prefix(options)[0], bool(options.return_logprobs), bool(options.return_alignment),
        bool(options.replace_unknowns), resolve_source_limit(options, model, frame), resolve_priority(options.priority),
    )


def resolve_priority(priority: int | None) -> int:
    """Of a request; 0 where it is unset.

    Raises:
        InvalidRequest: it is out of range.
    """
    if priority is not None and not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        raise InvalidRequest("options.priority", f"{priority} is outside -{MOST_PRIORITY}..{MOST_PRIORITY}")
    return priority or 0


def check_tenant(tenant: str, field: str) -> str:
    """The name of a tenant; empty for those that give none.

    Raises:
        InvalidRequest: it is too long or has other characters than letters, digits and ``._-``.
    """
    if not _TENANT.fullmatch(tenant):
        raise InvalidRequest(field, f"at most {MAX_TENANT_LENGTH} ASCII letters, digits and any of . _ - make a tenant")
    return tenant


def resolve_source_limit(options: Options, model: ModelDescription, frame: Frame) -> SourceLimit | None:
    """The caller's own limit, which is no more than the model's and leaves room for content; None where it has none.

    Raises:
        InvalidRequest: it does not.
    """
    special, most = len(frame.prefix) + len(frame.suffix), options.max_source_tokens
    if most is None and not options.truncate:
        return None
    if most is not None and not 1 <= most <= model.max_source_length:
        raise InvalidRequest("options.max_source_tokens", f"{most} is outside 1..{model.max_source_length}")
    if most is not None and most <= special:
        raise InvalidRequest("options.max_source_tokens", f"{most} leaves no room beside {special} special tokens")
    return SourceLimit(model.max_source_length if most is None else most, bool(options.truncate))


def frame_of(source_language: str | None, target_language: str | None, model: ModelDescription) -> Frame:
    """What is put around a source and before its target.

    Raises:
        InvalidRequest: a language is missing or unknown, or the model has none.
    """
    try:
        return model.framing.frame(source_language, target_language)
    except LanguageError as error:
        raise InvalidRequest(f"options.{error.field}", str(error)) from None


def complete_source(
    content: Sequence[int], model: ModelDescription, frame: Frame, field: str, limit: SourceLimit | None = None
) -> tuple[int, ...]:
    """Put the family's special tokens around content ids and check the result.

    Raises:
        InvalidRequest: no content, or an id outside the vocabulary.
        InputTooLong: over the limit, by default the model's; nothing is cut off here.
    """
    if not content:
        raise InvalidRequest(field, "empty: there is nothing to encode")
    check_length(len(content), model, field, limit)
    _check_ids(content, model, field)
    return frame.complete(tuple(content))


def check_complete(source: Sequence[int], model: ModelDescription, field: str) -> None:
    """The same for a source that already has its special tokens.

    Raises:
        InvalidRequest: it is empty, or an id is outside the vocabulary.
        InputTooLong: over the model's source limit.
    """
    if not source:
        raise InvalidRequest(field, "empty: there is nothing to encode")
    if len(source) > model.max_source_length:
        raise InputTooLong(field, len(source), model.max_source_length)
    _check_ids(source, model, field)


def _check_ids(token_ids: Sequence[int], model: ModelDescription, field: str) -> None:
    for place, token_id in enumerate(token_ids):
        if not 0 <= token_id < model.source_vocab_size:
            raise InvalidRequest(f"{field}[{place}]", f"id {token_id} is outside 0..{model.source_vocab_size - 1}")


def check_length(content: int, model: ModelDescription, field: str, limit: SourceLimit | None = None) -> None:
    """Content of so many tokens, with the special tokens around it, is within the limit, by default the model's.

    Raises:
        InputTooLong: it is not.
    """
    count = len(model.source_prefix) + content + len(model.source_suffix)
    most = model.max_source_length if limit is None else limit.most
    if count > most:
        raise InputTooLong(field, count, most)


def content_within(content: Sequence[Item], frame: Frame, limit: SourceLimit | None) -> Sequence[Item]:
    """The content that special tokens leave room for, where the caller wants the rest cut off; else all of it."""
    if limit is None or not limit.truncate:
        return content
    return content[: limit.most - len(frame.prefix) - len(frame.suffix)]


def check_memory(request: Request, limits: SchedulerLimits) -> None:
    """A request that could never fit rows and state buffers alone is refused at the door, not queued for ever.

    Raises:
        InvalidRequest: naming the options and the limit.
    """
    need, search = need_of([request], limits.widths), request.search
    if search.rows > 1 and not limits.beams:  # see decisions/0010
        raise InvalidRequest(
            "options.beam_size", f"{search.rows} hypotheses: this bundle's graph has no places for several hypotheses; "
            "export it again"
        )
    if need.rows > limits.max_rows:
        raise InvalidRequest("options.beam_size", f"{need.rows} rows are over the {limits.max_rows} of this server")
    if not limits.fits(need):
        beams = f" and {search.rows} hypotheses" if search.rows > 1 else ""
        raise InvalidRequest(
            "options.max_new_tokens",
            f"{search.max_new_tokens}{beams} with a source of {len(request.source)} tokens needs "
            f"{limits.cost.bytes_of(need.rounded())} bytes of state, over the budget of {limits.cache_bytes}",
        )
