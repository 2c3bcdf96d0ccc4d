"""May this request enter? Source ids and options in, a :class:`Request` or a refusal out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame, LanguageError
from seqserve_server.capacity import SchedulerLimits
from seqserve_server.errors import InputTooLong, InvalidRequest, QueueFull
from seqserve_server.plan import need_of
from seqserve_server.request import Request

RETRY_AFTER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """Decoding options as a caller sent them; None takes the bundle's default."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Options with defaults filled in, all within the model's limits. ``frame`` is what the languages make of it."""

    max_new_tokens: int
    min_new_tokens: int
    frame: Frame


def resolve_options(options: Options, model: ModelDescription) -> Resolved:
    """Fill in defaults and check every option against the model and the others.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    longest, least = resolve_lengths(options, model)
    return Resolved(longest, least, frame_of(options.source_language, options.target_language, model))


def resolve_lengths(options: Options, model: ModelDescription) -> tuple[int, int]:
    """The most and the fewest generated tokens.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    limit = model.max_new_tokens
    longest, least = options.max_new_tokens, options.min_new_tokens
    if longest is not None and not 1 <= longest <= limit:
        raise InvalidRequest("options.max_new_tokens", f"{longest} is outside 1..{limit}")
    if least is not None and not 0 <= least <= limit:
        raise InvalidRequest("options.min_new_tokens", f"{least} is outside 0..{limit}")
    # A default never contradicts what the caller asked for explicitly; two explicit values may.
    if longest is None:
        longest = max(model.default_max_new_tokens, least or 0)
    if least is None:
        least = min(model.default_min_new_tokens, longest)
    if least > longest:
        raise InvalidRequest("options.min_new_tokens", f"{least} is over options.max_new_tokens {longest}")
    return longest, least


def frame_of(source_language: str | None, target_language: str | None, model: ModelDescription) -> Frame:
    """What is put around a source and before its target.

    Raises:
        InvalidRequest: a language is missing or unknown, or the model has none.
    """
    try:
        return model.framing.frame(source_language, target_language)
    except LanguageError as error:
        raise InvalidRequest(f"options.{error.field}", str(error)) from None


def complete_source(content: Sequence[int], model: ModelDescription, frame: Frame, field: str) -> tuple[int, ...]:
    """Put the family's special tokens around content ids and check the result.

    Raises:
        InvalidRequest: no content, or an id outside the vocabulary.
        InputTooLong: over the model's source limit.
    """
    if not content:
        raise InvalidRequest(field, "empty: there is nothing to encode")
    check_length(len(content), model, field)
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


def check_length(content: int, model: ModelDescription, field: str) -> None:
    """Content of so many tokens, with the special tokens around it, is within the model's limit.

    Raises:
        InputTooLong: it is not.
    """
    count = len(model.source_prefix) + content + len(model.source_suffix)
    if count > model.max_source_length:
        raise InputTooLong(field, count, model.max_source_length)


def check_memory(request: Request, limits: SchedulerLimits) -> None:
    """A request that could never fit rows and state buffers alone is refused at the door, not queued for ever.

    Raises:
        InvalidRequest: naming the options and the limit.
    """
    need, search = need_of([request], limits.widths), request.search
    if need.rows > limits.max_rows:
        raise InvalidRequest("options.beam_size", f"{need.rows} is over the {limits.max_rows} rows of this server")
    if not limits.fits(need):
        beams = f" and options.beam_size {search.beam_size}" if search.beam_size > 1 else ""
        raise InvalidRequest(
            "options.max_new_tokens",
            f"{search.max_new_tokens}{beams} with a source of {len(request.source)} tokens needs "
            f"{limits.cost.bytes_of(need.rounded())} bytes of state, over the budget of {limits.cache_bytes}",
        )


class Gate:
    """Counts requests between the door and their terminal event, and refuses those over the bound at once."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0

    @property
    def inside(self) -> int:
        """Requests that entered and have not ended."""
        return self._inside

    def enter(self, count: int) -> None:
        """Let ``count`` requests in together, or none.

        Raises:
            QueueFull: there is no place for all of them.
        """
        if self._inside + count > self._places:
            raise QueueFull(count, self._places - self._inside, self._places, RETRY_AFTER_SECONDS)
        self._inside += count

    def leave(self, count: int = 1) -> None:
        """Requests reached their terminal event."""
        self._inside -= count
