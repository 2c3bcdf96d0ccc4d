"""How a bundle searches where a request does not say: one object of ``model.json``, and what such settings may be."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

# Every hypothesis is a row of the running batch, and every step sorts their candidates.
MAX_BEAM_SIZE = 32
# Of either sign. Beyond it the length alone decides, whatever the model thinks of an answer.
MAX_LENGTH_PENALTY = 10
MAX_PATIENCE = 10
# Far beyond what is of use, and far enough from where products and quotients of logits leave floating point.
LEAST_FACTOR, MOST_FACTOR = 0.001, 1000
# Rules by which a search ends: transformers' early_stopping False, True and "never", and CTranslate2's.
STOPPINGS = ("heuristic", "full", "exhaustive", "patience")


class SearchError(ValueError):
    """A search setting that cannot be; ``field`` names it, ``problem`` says its value and its limit."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


@dataclass(frozen=True, kw_only=True)
class SearchDefaults:
    """Search settings of requests that leave them out. Without any: greedy, scores by the mean log-probability.

    One answer is returned where a request does not ask for several, whatever the bundle.

    Attributes:
        beam_size: Most live hypotheses, in 1..``MAX_BEAM_SIZE``.
        length_penalty: Scores are sums of log-probabilities, divided by the length to this power.
        patience: With the stopping rule "patience", the search is over when ``beam_size * patience`` hypotheses ended.
        stopping: One of ``STOPPINGS``.
        extra_length: Added to lengths in scores: tokens fed first that the source library counts.
        repetition_penalty: What came before has its logit divided by this where it is positive, else multiplied.
        no_repeat_ngram_size: No sequence of so many tokens comes twice; 0 is off.
        sample: Whether tokens are drawn; only with one beam. The three below are for all requests that want it so.
        temperature: Logits are divided by it.
        top_k: Only so many best tokens are drawn from; 0 is all.
        top_p: Of those only the best whose probabilities together reach this.
        suppressed: Sequences of ids of which the last does not follow the others; requests add to them.
        renormalise: Whether penalties and bans act as in CTranslate2, on logits of what was generated, and
            log-probabilities are those of what is left. No request changes it.
    """

    beam_size: int = 1
    length_penalty: float = 1.0
    patience: float = 1.0
    stopping: str = STOPPINGS[0]
    extra_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    suppressed: tuple[tuple[int, ...], ...] = ()
    renormalise: bool = False

    def __post_init__(self) -> None:
        check_beam_size(self.beam_size)
        check_length_penalty(self.length_penalty)
        check_patience(self.patience)
        if self.stopping not in STOPPINGS:
            raise SearchError("stopping", f"{self.stopping!r:.80} is not one of {', '.join(STOPPINGS)}")
        if self.extra_length < 0:
            raise SearchError("extra_length", f"{self.extra_length} is below 0")
        check_repetition(self.repetition_penalty, self.no_repeat_ngram_size)
        check_sampling(self.temperature, self.top_k, self.top_p)
        if self.sample and self.beam_size > 1:
            raise SearchError("sample", f"true with beam_size {self.beam_size}: only one beam draws tokens")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchDefaults":
        """The object of the file; what it lacks is as in ``SearchDefaults()``.

        Raises:
            SearchError: naming an unknown, ill-typed or impossible field.
        """
        values = {**values, "suppressed": _sequences(values.get("suppressed", []))}
        types = {entry.name: entry.type for entry in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(types)):
            raise SearchError(unknown[0], "unknown field")
        wanted = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
        for name, value in values.items():
            if name == "suppressed":
                continue
            declared = types[name]
            fits = _is_number(value) if declared is float else type(value) is declared
            if not fits:
                raise SearchError(name, f"{value!r:.80} is not {wanted[declared]}")  # type: ignore[index]
        return cls(**values)


def check_beam_size(value: int, most: int = MAX_BEAM_SIZE) -> None:
    """Raise a SearchError unless so many hypotheses can be kept."""
    if not 1 <= value <= most:
        raise SearchError("beam_size", f"{value!r:.80} is outside 1..{most}")


def check_length_penalty(value: float) -> None:
    """Raise a SearchError unless scores can be divided by a length to this power."""
    if not abs(value) <= MAX_LENGTH_PENALTY:  # what is not a number is refused too
        raise SearchError("length_penalty", f"{value!r:.80} is outside {-MAX_LENGTH_PENALTY}..{MAX_LENGTH_PENALTY}")


def check_patience(value: float) -> None:
    """Raise a SearchError unless a search can have this patience."""
    if not 0 < value <= MAX_PATIENCE:
        raise SearchError("patience", f"{value!r:.80} is not over 0 and at most {MAX_PATIENCE}")


def check_repetition(penalty: float, ngram_size: int) -> None:
    """Raise a SearchError unless repetition can be held down in this way."""
    _check_factor("repetition_penalty", penalty)
    if ngram_size < 0:
        raise SearchError("no_repeat_ngram_size", f"{ngram_size!r:.80} is below 0")


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Raise a SearchError unless tokens can be drawn in this way."""
    _check_factor("temperature", temperature)
    if top_k < 0:
        raise SearchError("top_k", f"{top_k!r:.80} is below 0")
    if not 0 < top_p <= 1:
        raise SearchError("top_p", f"{top_p!r:.80} is not over 0 and at most 1")


def _check_factor(name: str, value: float) -> None:
    if not LEAST_FACTOR <= value <= MOST_FACTOR:  # what is not a number is refused too
        raise SearchError(name, f"{value!r:.80} is outside {LEAST_FACTOR}..{MOST_FACTOR}")


def _sequences(value: object) -> tuple[tuple[int, ...], ...]:
    """Lists of ids, none of them empty."""
    if not isinstance(value, list) or not all(
        isinstance(each, list) and each and all(type(token_id) is int and token_id >= 0 for token_id in each)
        for each in value
    ):
        raise SearchError("suppressed", f"{value!r:.80} is not a list of lists of ids")
    return tuple(tuple(each) for each in value)


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
