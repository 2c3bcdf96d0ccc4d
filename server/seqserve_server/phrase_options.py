"""Phrases that answers have to hold, or may not: checked against the other options. Pure."""

from collections.abc import Sequence

from seqserve_server.decoding.search import SearchSettings
from seqserve_server.errors import InvalidRequest

MAX_PHRASES, MAX_REQUIRED_TOKENS = 64, 64  # of required ones, each token is a bank of the beam
FIELD = "options.required_phrases"
Phrases = tuple[tuple[int, ...], ...]


def check_phrases(phrases: Sequence[Sequence[int]], field: str) -> None:
    """No phrase is empty, and there are not too many.

    Raises:
        InvalidRequest: naming the phrase and the limit.
    """
    if len(phrases) > MAX_PHRASES:
        raise InvalidRequest(field, f"{len(phrases)} phrases are over {MAX_PHRASES}")
    for place, phrase in enumerate(phrases):
        if not phrase:
            raise InvalidRequest(f"{field}[{place}]", "empty: at least one token is needed")


def left_to_require(phrases: Phrases, prefix: Sequence[int]) -> Phrases:
    """Phrases that a forced prefix does not hold already."""
    return tuple(phrase for phrase in dict.fromkeys(phrases) if not _holds(prefix, phrase))


def check_required(search: SearchSettings, phrases: Phrases) -> None:
    """What is required can be had, together with the other options.

    Args:
        search: Requires those of the phrases that :func:`left_to_require` left.
        phrases: As the caller gave them.

    Raises:
        InvalidRequest: naming the phrase and what it contradicts.
    """
    if not search.required:
        return
    contradictions = (
        (search.sampling is not None, "tokens are drawn (options.sample)"),
        (search.alternatives > 0, "options.return_alternatives is true"),
        (search.favoured != (), "options.prefix_bias is given"),
        (search.beam_size == 1, "options.beam_size is 1, and several hypotheses are needed"),
        (search.repetition_penalty != 1, f"options.repetition_penalty is {search.repetition_penalty:g}, not 1"),
        (search.no_repeat_ngram_size > 0, f"options.no_repeat_ngram_size is {search.no_repeat_ngram_size}, not 0"),
    )
    for holds, problem in contradictions:
        if holds:
            raise InvalidRequest(FIELD, problem)
    for phrase in search.required:
        for ban in search.suppressed:
            if _holds(phrase, ban):
                place = phrases.index(phrase)
                raise InvalidRequest(f"{FIELD}[{place}]", f"it holds {list(ban)[:20]}, which is banned or suppressed")
    count, room = sum(map(len, search.required)), search.max_new_tokens - search.forced_end
    if count > MAX_REQUIRED_TOKENS:
        raise InvalidRequest(FIELD, f"{count} tokens are over {MAX_REQUIRED_TOKENS}")
    if count > room:
        ending = " less the end token" if search.forced_end else ""
        raise InvalidRequest(FIELD, f"{count} tokens do not fit options.max_new_tokens {search.max_new_tokens}{ending}")


def _holds(tokens: Sequence[int], phrase: Sequence[int]) -> bool:
    size = len(phrase)
    return any(tuple(tokens[place : place + size]) == tuple(phrase) for place in range(len(tokens) - size + 1))
