"""Between Python values and the messages of the Score call."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from seqserve.v1 import seq2seq_pb2
from seqserve_client.errors import InvalidInput
from seqserve_client.messages import alignment_from
from seqserve_client.options import TENANT, ScoreOptions
from seqserve_client.results import ScoreResult

Side = TypeVar("Side", seq2seq_pb2.Input, seq2seq_pb2.Target)
Texts = Sequence[str] | None
TokenLists = Sequence[Sequence[str]] | None
IdLists = Sequence[Sequence[int]] | None
_OPTION_NAMES = tuple(seq2seq_pb2.ScoreOptions.DESCRIPTOR.fields_by_name)


def score_request(
    sources: tuple[Texts, TokenLists, IdLists],
    targets: tuple[Texts, TokenLists, IdLists],
    model: str | None,
    options: ScoreOptions,
) -> seq2seq_pb2.ScoreRequest:
    """The message for pairs.

    Args:
        sources, targets: As texts, as tokens and as ids, one of which is given.
        options: None is left out.

    Raises:
        TypeError: A wrong Python call: not exactly one kind of source or target, a bare string, an unknown option.
        ValueError: More of the one than of the other.
        InvalidInput: A value that fits no message, such as a token id beyond 32 bits.
    """
    left = _sides("source", sources, seq2seq_pb2.Input)
    right = _sides("target", targets, seq2seq_pb2.Target)
    if len(left) != len(right):
        raise ValueError(f"{len(left)} sources and {len(right)} targets: each source has one target")
    pairs = [
        seq2seq_pb2.ScorePair(source=source, target=target) for source, target in zip(left, right, strict=True)
    ]
    request = seq2seq_pb2.ScoreRequest(model=model or "", pairs=pairs, options=seq2seq_pb2.ScoreOptions())
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if name not in _OPTION_NAMES and name != TENANT:
            raise TypeError(f"unknown option {name!r}; known: {', '.join((*_OPTION_NAMES, TENANT))}")
        try:
            if value is not None and name != TENANT:
                setattr(request.options, name, value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"options.{name}: {error}", field=f"options.{name}") from None
    return request


def _sides(side: str, given: tuple[Texts, TokenLists, IdLists], make: type[Side]) -> list[Side]:
    names = (f"{side}s", f"{side}_tokens", f"{side}_token_ids")
    found = [
        (name, kind, values)
        for name, kind, values in zip(names, ("text", "tokens", "token_ids"), given, strict=True) if values is not None
    ]
    if len(found) != 1:
        have = " and ".join(name for name, _, _ in found) or "none"
        raise TypeError(f"give exactly one of {', '.join(names[:2])} and {names[2]}, not {have}")
    ((name, kind, values),) = found
    if isinstance(values, str):
        raise TypeError(f"{name} is a list with one entry per pair; for one pair write [{values!r}]")
    return [_side(place, value, kind, side, name, make) for place, value in enumerate(values)]


def _side(place: int, value: Any, kind: str, side: str, name: str, make: type[Side]) -> Side:
    try:
        if kind == "text":
            if not isinstance(value, str):
                raise TypeError(f"expected a string, not {type(value).__name__}")
            return make(text=value)
        if isinstance(value, int | str | bytes):
            raise TypeError(f"expected a list, not {value!r}")
        if kind == "tokens":
            return make(tokens=seq2seq_pb2.Tokens(tokens=value))
        return make(token_ids=seq2seq_pb2.TokenIds(ids=value))
    except TypeError as error:
        raise TypeError(f"{name}, pair {place}: {error}") from None
    except ValueError as error:  # out of 32 bits, or a lone surrogate
        field = f"pairs[{place}].{side}.{kind}"
        raise InvalidInput(f"{field}: {error}", field=field) from None


def scores_from(response: seq2seq_pb2.ScoreResponse) -> list[ScoreResult]:
    """One result per pair, in order."""
    return [
        ScoreResult(
            score=each.score,
            token_log_probs=list(each.token_log_probs),
            token_ids=list(each.token_ids),
            tokens=list(each.tokens),
            input_token_count=each.input_token_count,
            alignment=alignment_from(each.alignment.rows) if each.HasField("alignment") else None,
            source_tokens=list(each.source_tokens),
        )
        for each in response.results
    ]
