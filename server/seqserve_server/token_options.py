"""Options that say which tokens may come and how one is drawn: checked, filled in from a bundle's defaults. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqserve.search_defaults import SearchDefaults, SearchError, check_sampling
from seqserve_server.decoding.search import Sampling, SearchSettings
from seqserve_server.decoding.stop_texts import StopTexts
from seqserve_server.errors import InvalidRequest

# In all sequences of one request: every token of an answer is compared with them.
MAX_SUPPRESSED_IDS = 4096
MAX_STOP_TEXTS, MAX_STOP_BYTES = 16, 256  # each is compared with every character of an answer
MOST_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Drawing:
    """The options of a draw as a caller sent them; None takes the bundle's default."""

    sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None


def resolve_sampling(options: Drawing, searching: str | None, defaults: SearchDefaults) -> Sampling | None:
    """How tokens are drawn, or None where they are not.

    Who says how to draw asks for it. A bundle may draw by default, but not for callers who ask for beams.

    Args:
        searching: The option that says that answers are searched for, and what it says, if there is one.

    Raises:
        InvalidRequest: naming the option, and the one that contradicts it, or its limit.
    """
    implying = ("temperature", "top_k", "top_p", "seed")
    given = [f"options.{name}" for name in implying if getattr(options, name) is not None]
    sample = options.sample
    if sample is False and given:
        raise InvalidRequest(given[0], "it is for drawing tokens, and options.sample is false")
    if searching is not None:
        if given or sample:
            name = "options.sample" if sample else given[0]
            raise InvalidRequest(name, f"it is for a beam of 1, and {searching}")
        sample = False
    if not (bool(given) or defaults.sample if sample is None else sample):
        return None
    temperature = defaults.temperature if options.temperature is None else options.temperature
    top_k = defaults.top_k if options.top_k is None else options.top_k
    top_p = defaults.top_p if options.top_p is None else options.top_p
    try:
        check_sampling(temperature, top_k, top_p)
    except SearchError as error:
        raise InvalidRequest(f"options.{error.field}", error.problem) from None
    if options.seed is not None and not 0 <= options.seed <= MOST_SEED:
        raise InvalidRequest("options.seed", f"{options.seed} is outside 0..{MOST_SEED}")
    return Sampling(float(temperature), top_k, float(top_p), options.seed)


def check_count(count: int, field: str, most: int) -> None:
    """A list has no more entries than could be of use; to be asked before any of them is looked at.

    Raises:
        InvalidRequest: it has.
    """
    if count > most:
        raise InvalidRequest(field, f"{count} entries are over {most}")


def read_suppressed(sequences: Sequence[Sequence[int]], vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """Sequences that are not to be generated.

    Raises:
        InvalidRequest: an empty one, an id outside the target's vocabulary, or too many ids.
    """
    count = sum(map(len, sequences))
    if count > MAX_SUPPRESSED_IDS:
        raise InvalidRequest("options.suppress_tokens", f"{count} ids are over {MAX_SUPPRESSED_IDS}")
    for place, sequence in enumerate(sequences):
        if not sequence:
            raise InvalidRequest(f"options.suppress_tokens[{place}]", "empty: at least one id is needed")
        for token_id in sequence:
            if not 0 <= token_id < vocabulary:
                raise InvalidRequest(
                    f"options.suppress_tokens[{place}]", f"id {token_id} is outside 0..{vocabulary - 1}"
                )
    return tuple(tuple(sequence) for sequence in sequences)


def check_stop(texts: Sequence[str]) -> None:
    """Texts at which answers end are not too many, and none is empty or long.

    Raises:
        InvalidRequest: naming the text and the limit.
    """
    if len(texts) > MAX_STOP_TEXTS:
        raise InvalidRequest("options.stop", f"{len(texts)} texts are over {MAX_STOP_TEXTS}")
    for place, text in enumerate(texts):
        if not text:
            raise InvalidRequest(f"options.stop[{place}]", "empty: every answer would end before it begins")
        if (size := len(text.encode())) > MAX_STOP_BYTES:
            raise InvalidRequest(f"options.stop[{place}]", f"{size} bytes are over {MAX_STOP_BYTES}")


def resolve_stop(
    stop: StopTexts | None, prefix: tuple[int, ...], search: SearchSettings, *, replace_unknowns: bool
) -> StopTexts | None:
    """Stop texts behind a forced prefix.

    Raises:
        InvalidRequest: there are several hypotheses, each of which would come to its own end, or the text in which they
            are found would be another afterwards.
    """
    if stop is None:
        return None
    if search.beam_size > 1:
        raise InvalidRequest("options.stop", f"it is for a beam of 1, and options.beam_size is {search.beam_size}")
    if search.alternatives:
        raise InvalidRequest("options.stop", "it is for one answer, and options.return_alternatives is true")
    if replace_unknowns:
        problem = "it ends texts as they were generated, and options.replace_unknowns is true"
        raise InvalidRequest("options.stop", problem)
    return replace(stop, prefix=prefix)


def seeded(search: SearchSettings, seed: int) -> SearchSettings:
    """The same, with this seed where tokens are drawn and the caller gave none."""
    if search.sampling is None or search.sampling.seed is not None:
        return search
    return replace(search, sampling=replace(search.sampling, seed=seed))
