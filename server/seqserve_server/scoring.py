"""May this pair be scored, and with what score? Ids and options in, a :class:`ScoreRequest` or a refusal out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame
from seqserve.search_defaults import SearchError, check_length_penalty
from seqserve_server.admission import frame_of, resolve_priority
from seqserve_server.decoding.search import SearchSettings, normalised
from seqserve_server.engine import Heads, Pair
from seqserve_server.errors import InvalidRequest
from seqserve_server.request import ScoreRequest


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """As a caller sent them; None takes the bundle's default."""

    source_language: str | None = None
    target_language: str | None = None
    length_penalty: float | None = None
    return_alignment: bool | None = None
    priority: int | None = None
    alignment_layer: int | None = None
    alignment_head: int | None = None


@dataclass(frozen=True, slots=True)
class Scoring:
    """Options with defaults filled in. Of ``search`` only what says how scores are made of log-probabilities counts."""

    frame: Frame
    search: SearchSettings
    return_alignment: bool
    priority: int = 0
    heads: Heads | None = None

    def score(self, log_probs: Sequence[float]) -> float:
        """Of the log-probabilities of a target and its end token: what a search would give it."""
        return normalised(sum(log_probs), len(log_probs), self.search)


def resolve_scoring(
    options: ScoreOptions, model: ModelDescription, choosable_heads: tuple[int, int] = (0, 0)
) -> Scoring:
    """Fill in defaults and check every option; ``choosable_heads`` are the engine's.

    Raises:
        InvalidRequest: naming the option, its value and its limit.
    """
    defaults, penalty = model.search, options.length_penalty
    penalty = defaults.length_penalty if penalty is None else penalty
    try:
        check_length_penalty(penalty)
    except SearchError as error:
        raise InvalidRequest(f"options.{error.field}", error.problem) from None
    search = SearchSettings(
        model.eos_id, model.max_new_tokens, length_penalty=float(penalty), extra_length=defaults.extra_length
    )
    frame = frame_of(options.source_language, options.target_language, model)
    priority, heads = resolve_priority(options.priority), _heads(options, choosable_heads, model)
    return Scoring(frame, search, bool(options.return_alignment), priority, heads)


def _heads(options: ScoreOptions, choosable: tuple[int, int], model: ModelDescription) -> Heads | None:
    """Counted from 1 by callers, as ``alignment_source`` does."""
    asked = {"alignment_layer": options.alignment_layer, "alignment_head": options.alignment_head}
    if options.alignment_layer is None:
        if options.alignment_head is not None:
            raise InvalidRequest("options.alignment_head", "is one of a layer's: options.alignment_layer is required")
        return None
    if choosable == (0, 0):
        told = f"this bundle offers no choice, it tells the attention of {model.alignment or 'its usual heads'} only"
        # Recurrent models attend to the source in one layer, with one head: no export makes a choice of that.
        raise InvalidRequest(
            "options.alignment_layer", told + "; where the model has more, one that is exported again offers them"
        )
    for (name, value), most in zip(asked.items(), choosable, strict=True):
        if value is not None and not 1 <= value <= most:
            raise InvalidRequest(f"options.{name}", f"{value} is outside 1..{most}")
    return Heads(options.alignment_layer - 1, None if options.alignment_head is None else options.alignment_head - 1)


def score_request(
    source: tuple[int, ...], content: Sequence[int], scoring: Scoring, model: ModelDescription, field: str, *,
    deadline: float | None = None, tenant: str = "",
) -> ScoreRequest:
    """What the engine is asked of a pair.

    Args:
        source: Complete and checked.
        content: Target ids inside the vocabulary, none of them the end token, which is scored behind them.
        field: What errors call the target, such as ``pairs[3].target.text``.

    Raises:
        InvalidRequest: the target, with its end token, is longer than what the model generates, or has padding in it.
    """
    if len(content) + 1 > model.max_new_tokens:
        raise InvalidRequest(
            field, f"{len(content) + 1} tokens, end token included, are over the {model.max_new_tokens} of the model"
        )
    for place, token_id in enumerate(content):
        # Some vocabularies pad with what stands for unknown words, and a text may have those.
        if token_id == model.pad_id and token_id != model.unk_id:
            raise InvalidRequest(f"{field}[{place}]", f"id {token_id} is padding, which is no content")
    prompt = scoring.frame.prompt
    pair = Pair(source, (*prompt, *content, model.eos_id), len(prompt), scoring.heads)
    return ScoreRequest(0, pair, deadline=deadline, priority=scoring.priority, tenant=tenant)
