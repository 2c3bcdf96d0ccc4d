"""May this request enter? Source ids and options in, a :class:`Request` or a refusal out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame, LanguageError
from seqserve.search_defaults import (
    MAX_BEAM_SIZE,
    SearchDefaults,
    SearchError,
    check_beam_size,
    check_length_penalty,
    check_patience,
    check_repetition,
)
from seqserve_server.capacity import SINGLE, SchedulerLimits
from seqserve_server.decoding.search import SearchSettings, Stopping
from seqserve_server.errors import InputTooLong, InvalidRequest, QueueFull
from seqserve_server.plan import need_of
from seqserve_server.request import Request
from seqserve_server.token_options import Drawing, read_suppressed, resolve_sampling

Value = TypeVar("Value")
RETRY_AFTER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """Decoding options as a caller sent them; None takes the bundle's default."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    source_language: str | None = None
    target_language: str | None = None
    beam_size: int | None = None
    num_hypotheses: int | None = None
    length_penalty: float | None = None
    patience: float | None = None
    stopping: Stopping | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    suppress_tokens: Sequence[Sequence[int]] | None = None
    sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    return_logprobs: bool | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Options with defaults filled in, all within the model's limits. ``frame`` is what the languages make of it.

    A search that draws has a seed only where the caller gave one: see ``seeded``.
    """

    search: SearchSettings
    frame: Frame
    return_logprobs: bool = False


def most_beams(max_rows: int) -> int:
    """The largest beam of an engine of so many rows: all hypotheses of a request run in one step."""
    return min(MAX_BEAM_SIZE, max_rows)


def read_stopping(word: str) -> Stopping:
    """A stopping rule by the word for it.

    Raises:
        InvalidRequest: there is no such rule.
    """
    try:
        return Stopping(word)
    except ValueError:
        known = ", ".join(rule.value for rule in Stopping)
        raise InvalidRequest("options.stopping", f"{word!r:.40} is not one of {known}") from None


def resolve_options(options: Options, model: ModelDescription, max_beam_size: int) -> Resolved:
    """Fill in defaults and check every option against the model and the others.

    Args:
        max_beam_size: See ``most_beams``.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    search = resolve_search(options, model, max_beam_size)
    frame = frame_of(options.source_language, options.target_language, model)
    return Resolved(search, frame, bool(options.return_logprobs))


def resolve_search(options: Options, model: ModelDescription, max_beam_size: int) -> SearchSettings:
    """The options that say how tokens are chosen.

    Args:
        max_beam_size: See ``most_beams``.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    longest, least = resolve_lengths(options, model)
    defaults = search_defaults(model, max_beam_size)
    sampling = resolve_sampling(
        Drawing(options.sample, options.temperature, options.top_k, options.top_p, options.seed), options.beam_size,
        defaults,
    )
    beam_size = _given(options.beam_size, 1 if sampling is not None else defaults.beam_size)
    length_penalty = _given(options.length_penalty, defaults.length_penalty)
    repetition_penalty = _given(options.repetition_penalty, defaults.repetition_penalty)
    ngram_size = _given(options.no_repeat_ngram_size, defaults.no_repeat_ngram_size)
    patience, stopping = _resolve_ending(options, defaults)
    try:
        check_beam_size(beam_size, max_beam_size)
        check_length_penalty(length_penalty)
        check_patience(patience)
        check_repetition(repetition_penalty, ngram_size)
    except SearchError as error:
        raise InvalidRequest(f"options.{error.field}", error.problem) from None
    if sampling is not None and (options.num_hypotheses or 1) > 1:
        problem = f"{options.num_hypotheses} is over 1, and one answer is drawn (options.sample)"
        raise InvalidRequest("options.num_hypotheses", problem)
    return SearchSettings(
        end_id=model.eos_id, max_new_tokens=longest, min_new_tokens=least, forced_end=model.forced_end,
        beam_size=beam_size, num_hypotheses=_resolve_hypotheses(options, beam_size),
        length_penalty=float(length_penalty), patience=float(patience), stopping=stopping,
        extra_length=defaults.extra_length,
        repetition_penalty=float(repetition_penalty), no_repeat_ngram_size=ngram_size,
        suppressed=defaults.suppressed + read_suppressed(options.suppress_tokens or (), model.target_vocab_size),
        sampling=sampling,
        renormalise=defaults.renormalise,
    )


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def search_defaults(model: ModelDescription, max_beam_size: int) -> SearchDefaults:
    """The bundle's own, with as many beams as the engine has rows for: a small one answers, only less thoroughly."""
    return replace(model.search, beam_size=min(model.search.beam_size, max_beam_size))


def _resolve_hypotheses(options: Options, beam_size: int) -> int:
    """How many to return; one by default. The beam does not grow with them: a caller would pay unasked."""
    count = 1 if options.num_hypotheses is None else options.num_hypotheses
    if count < 1:
        raise InvalidRequest("options.num_hypotheses", f"{count} is outside 1..options.beam_size {beam_size}")
    if count > beam_size:
        whose = " (the model's default)" if options.beam_size is None else ""
        raise InvalidRequest("options.num_hypotheses", f"{count} is over options.beam_size {beam_size}{whose}")
    return count


def _resolve_ending(options: Options, defaults: SearchDefaults) -> tuple[float, Stopping]:
    """Patience and stopping rule. Whoever asks for patience without a rule asks for the one that has it."""
    rule = options.stopping
    if options.patience is not None and rule is not None and rule is not Stopping.PATIENCE:
        raise InvalidRequest(
            "options.patience", f"{options.patience:g} means nothing to options.stopping {rule.value}, only to patience"
        )
    if rule is None:
        rule = Stopping(defaults.stopping) if options.patience is None else Stopping.PATIENCE
    return defaults.patience if options.patience is None else options.patience, rule


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
    if search.beam_size > 1 and limits.widths == SINGLE:  # row i reads source i, and no other: see decisions/0010
        raise InvalidRequest(
            "options.beam_size", f"{search.beam_size}: this bundle's graph has no places for several hypotheses; "
            "export it again"
        )
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
