"""How a request's tokens are chosen: options as a caller sent them to settings that are whole and checked. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from seqserve.bundle import ModelDescription
from seqserve.search_defaults import (
    MAX_BEAM_SIZE,
    SearchDefaults,
    SearchError,
    check_beam_size,
    check_length_penalty,
    check_patience,
    check_repetition,
)
from seqserve_server.decoding.search import SearchSettings, Stopping
from seqserve_server.decoding.stop_texts import StopTexts
from seqserve_server.errors import InvalidRequest
from seqserve_server.phrase_options import Phrases, check_phrases, check_required, left_to_require
from seqserve_server.token_options import Drawing, read_suppressed, resolve_sampling, resolve_stop

Value = TypeVar("Value")
MAX_COVERAGE_PENALTY = 10


@dataclass(frozen=True, slots=True)
class Options:
    """Decoding options as a caller sent them; None takes the bundle's default.

    ``prefix`` and phrases are ids that were checked against the vocabulary, and ``stop`` texts against their limits.
    """

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
    prefix: tuple[int, ...] | None = None
    prefix_bias: float | None = None
    return_alternatives: bool | None = None
    min_alternative_probability: float | None = None
    coverage_penalty: float | None = None
    replace_unknowns: bool | None = None
    return_alignment: bool | None = None
    required_phrases: Phrases | None = None
    banned_phrases: Phrases | None = None
    max_source_tokens: int | None = None
    truncate: bool | None = None
    stop: StopTexts | None = None
    priority: int | None = None


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


def resolve_search(options: Options, model: ModelDescription, max_beam_size: int) -> SearchSettings:
    """The options that say how tokens are chosen.

    Args:
        max_beam_size: See ``most_beams``.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    forced, favoured, bias = resolve_prefix(options)
    longest, least = resolve_lengths(options, model, len(forced))
    defaults = search_defaults(model, max_beam_size)
    sampling = resolve_sampling(
        Drawing(options.sample, options.temperature, options.top_k, options.top_p, options.seed),
        _searching(options), defaults,
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
    banned = options.banned_phrases or ()
    check_phrases(options.required_phrases or (), "options.required_phrases")
    check_phrases(banned, "options.banned_phrases")
    settings = SearchSettings(
        end_id=model.eos_id, max_new_tokens=longest, min_new_tokens=least, forced_end=model.forced_end,
        beam_size=beam_size, num_hypotheses=_resolve_hypotheses(options, beam_size, max_beam_size),
        length_penalty=float(length_penalty), patience=float(patience), stopping=stopping,
        extra_length=_extra_length(defaults, len(forced)),
        repetition_penalty=float(repetition_penalty), no_repeat_ngram_size=ngram_size,
        suppressed=defaults.suppressed + banned + read_suppressed(
            options.suppress_tokens or (), model.target_vocab_size
        ),
        sampling=sampling,
        favoured=favoured,
        prefix_bias=bias,
        alternatives=(options.num_hypotheses or 1) if options.return_alternatives else 0,
        least_probability=_least_probability(options),
        required=left_to_require(options.required_phrases or (), forced),
        coverage_penalty=_coverage(options),
        renormalise=defaults.renormalise,
    )
    check_required(settings, options.required_phrases or ())
    unknowns = bool(options.replace_unknowns)
    return replace(settings, stop=resolve_stop(options.stop, forced, settings, replace_unknowns=unknowns))


def resolve_prefix(options: Options) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """The forced prefix, the favoured one and how much it is; one of the two is empty.

    Raises:
        InvalidRequest: a bias outside its limits, or for no prefix.
    """
    prefix, bias = options.prefix or (), options.prefix_bias
    if bias is None:
        return prefix, (), 0.0
    if not 0 < bias < 1:
        raise InvalidRequest("options.prefix_bias", f"{bias:g} is not over 0 and below 1")
    if not prefix:
        raise InvalidRequest("options.prefix_bias", f"{bias:g}, but options.prefix is empty")
    if options.return_alternatives:
        raise InvalidRequest("options.prefix_bias", "options.return_alternatives needs a forced options.prefix")
    return (), prefix, bias


def _searching(options: Options) -> str | None:
    """What forbids to draw tokens, if something does."""
    if options.beam_size is not None and options.beam_size > 1:
        return f"options.beam_size is {options.beam_size}"
    return "options.return_alternatives is true" if options.return_alternatives else None


def _extra_length(defaults: SearchDefaults, prefix: int) -> int:
    """What the source library counts in lengths beside generated tokens: CTranslate2 a forced prefix, transformers
    tokens that it forces itself, which with a prefix it does not.
    """
    if defaults.renormalise:
        return defaults.extra_length + prefix
    return 0 if prefix else defaults.extra_length


def _least_probability(options: Options) -> float:
    least = options.min_alternative_probability
    if least is None:
        return 0.0
    if not 0 <= least <= 1:
        raise InvalidRequest("options.min_alternative_probability", f"{least:g} is outside 0..1")
    if not options.return_alternatives:
        raise InvalidRequest(
            "options.min_alternative_probability", f"{least:g} means nothing without options.return_alternatives"
        )
    return float(least)


def _coverage(options: Options) -> float:
    weight = options.coverage_penalty
    if weight is None:
        return 0.0
    if not -MAX_COVERAGE_PENALTY <= weight <= MAX_COVERAGE_PENALTY:
        raise InvalidRequest(
            "options.coverage_penalty", f"{weight:g} is outside {-MAX_COVERAGE_PENALTY}..{MAX_COVERAGE_PENALTY}"
        )
    if weight and options.return_alternatives:
        raise InvalidRequest(
            "options.coverage_penalty", f"{weight:g}: it orders answers, and options.return_alternatives has an order"
        )
    return float(weight)


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def search_defaults(model: ModelDescription, max_beam_size: int) -> SearchDefaults:
    """The bundle's own, with as many beams as the engine has rows for: a small one answers, only less thoroughly."""
    return replace(model.search, beam_size=min(model.search.beam_size, max_beam_size))


def _resolve_hypotheses(options: Options, beam_size: int, most: int) -> int:
    """How many to return; one by default. The beam does not grow with them: a caller would pay unasked."""
    count = 1 if options.num_hypotheses is None else options.num_hypotheses
    if options.return_alternatives:
        if count < 1:
            raise InvalidRequest("options.num_hypotheses", f"{count} is below 1")
        if count * beam_size > most:
            raise InvalidRequest(
                "options.num_hypotheses",
                f"{count} alternatives by options.beam_size {beam_size} are over the {most} rows of a request",
            )
        return count
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


def resolve_lengths(options: Options, model: ModelDescription, prefix: int = 0) -> tuple[int, int]:
    """The most and the fewest generated tokens behind a forced prefix of so many.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    limit = model.max_new_tokens - prefix
    if limit < 1:
        raise InvalidRequest("options.prefix", f"{prefix} tokens leave none of the {model.max_new_tokens} of the model")
    behind = f" (the model's {model.max_new_tokens} less {prefix} of options.prefix)" if prefix else ""
    longest, least = options.max_new_tokens, options.min_new_tokens
    if longest is not None and not 1 <= longest <= limit:
        raise InvalidRequest("options.max_new_tokens", f"{longest} is outside 1..{limit}{behind}")
    if least is not None and not 0 <= least <= limit:
        raise InvalidRequest("options.min_new_tokens", f"{least} is outside 0..{limit}{behind}")
    # A default never contradicts what the caller asked for explicitly; two explicit values may.
    if longest is None:
        longest = min(max(model.default_max_new_tokens, least or 0), limit)
    if least is None:
        least = min(model.default_min_new_tokens, longest)
    if least > longest:
        raise InvalidRequest("options.min_new_tokens", f"{least} is over options.max_new_tokens {longest}")
    return longest, least
