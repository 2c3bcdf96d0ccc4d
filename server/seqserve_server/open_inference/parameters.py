"""Decoding options by the names that callers of this protocol use, from request parameters and from JSON.

KServe's client has neither floats nor unsigned numbers, and samples of Triton's vLLM backend write numbers as strings:
a number may come as a string everywhere.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from seqserve_server.errors import InputTooLong, InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.bounds import check_parameters, shown
from seqserve_server.token_options import MOST_SEED

MAX_JSON_BYTES = 65536
SAMPLING_PARAMETERS = "sampling_parameters"
# The protocol's own, and Triton's: for sequences, its scheduler and its HTTP front end. See ``Call`` for two of them.
# Triton's priority counts the other way than ours, which goes into the JSON.
RESERVED = ("sequence_id", "sequence_start", "sequence_end", "priority", "headers", "binary_data_output")
RESERVED_PREFIX = "triton_"
TIMEOUT, EMPTY_FINAL = "timeout", "triton_enable_empty_final_response"
_LEAST_INT32, _MOST_INT32 = -(2**31), 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Call:
    """What a request's parameters say.

    Attributes:
        options: By the names and in the forms of ``named_options``.
        called: How the caller named each of them, for errors.
        timeout: Seconds that the request may take, or None.
        empty_final: Whether a stream ends with an answer that holds no tensors.
    """

    options: dict[str, Any]
    called: dict[str, str]
    timeout: float | None = None
    empty_final: bool = False


def _whole(value: Any, low: int = _LEAST_INT32, high: int = _MOST_INT32) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is not a whole number")
    if not low <= value <= high:
        raise ValueError(f"is outside {low}..{high}")
    return value


def _seed(value: Any) -> int:
    return _whole(value, 0, MOST_SEED)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("is not a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("is not a number") from None


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character
        raise ValueError("is no Unicode text: it holds a lone surrogate") from None
    return value


def _texts(value: Any) -> list[str]:
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)]


def _target(value: Any) -> str | list[str] | list[int]:
    if not isinstance(value, list):
        return _text(value)
    if value and isinstance(value[0], str):
        return [_text(each) for each in value]
    return [_whole(each) for each in value]


def _phrases(value: Any) -> list[str | list[str] | list[int]]:
    return [_target(each) for each in value] if isinstance(value, list) else [_text(value)]


def _suppressed(value: Any) -> list[int | list[int]]:
    if not isinstance(value, list):
        raise ValueError(f"is not a list of ids, which {SAMPLING_PARAMETERS} can hold")
    return [[_whole(one) for one in each] if isinstance(each, list) else _whole(each) for each in value]


def _untold(_value: Any) -> None:
    raise ValueError("asks for what no tensor here tells; Seq2SeqService.Generate does")


OPTIONS: dict[str, Callable[[Any], Any]] = {
    "max_new_tokens": _whole, "min_new_tokens": _whole, "source_language": _text, "target_language": _text,
    "beam_size": _whole, "num_hypotheses": _whole, "length_penalty": _number, "patience": _number, "stopping": _text,
    "repetition_penalty": _number, "no_repeat_ngram_size": _whole, "suppress_tokens": _suppressed, "sample": _switch,
    "temperature": _number, "top_k": _whole, "top_p": _number, "seed": _seed, "prefix": _target,
    "prefix_bias": _number, "return_alternatives": _switch, "min_alternative_probability": _number,
    "coverage_penalty": _number, "replace_unknowns": _switch, "required_phrases": _phrases,
    "banned_phrases": _phrases, "max_source_tokens": _whole, "truncate": _switch, "stop": _texts,
    "priority": _whole, "return_logprobs": _untold, "return_alignment": _untold,
}
ALIASES = {
    "max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "num_beams": "beam_size",
    "beam_width": "beam_size", "num_return_sequences": "num_hypotheses", "n": "num_hypotheses",
    "do_sample": "sample", "random_seed": "seed",
}


def read_parameters(parameters: Mapping[str, pb.InferParameter], sampling: str | None) -> Call:
    """Options from a request's parameters and from the JSON object of its tensor ``sampling_parameters``.

    Raises:
        InvalidRequest: naming the parameter: too many, too long, unknown, given twice, or of the wrong kind.
    """
    check_parameters(parameters, "parameters")
    call = Call({}, {})
    for name, message in sorted(parameters.items()):
        field = f"parameters.{shown(name)}"
        choice = message.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(field, "it has no value")
        value = getattr(message, choice)
        if name == TIMEOUT:
            microseconds = _read(lambda given: _whole(given, 0, 2**63 - 1), value, field)
            call = replace(call, timeout=microseconds / 1e6 if microseconds else None)
        elif name == EMPTY_FINAL:
            call = replace(call, empty_final=_read(_switch, value, field))
        elif name not in RESERVED and not name.startswith(RESERVED_PREFIX):
            _take(call, name, value, field)
    if sampling is not None:
        for name, value in _object_of(sampling).items():
            if value is not None:
                _take(call, name, value, f"{SAMPLING_PARAMETERS}.{shown(name)}")
    return call


def _take(call: Call, name: str, value: Any, field: str) -> None:
    option = ALIASES.get(name, name)
    if option not in OPTIONS:
        raise InvalidRequest(field, f"no such parameter; there are {', '.join([*OPTIONS, *ALIASES])}")
    if option in call.options:
        raise InvalidRequest(field, f"{call.called[option]} says it already")
    call.options[option] = _read(OPTIONS[option], value, field)
    call.called[option] = field


def _read(read: Callable[[Any], Any], value: Any, field: str) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise InvalidRequest(field, f"{value!r:.40} {error}") from None


def _object_of(text: str) -> dict[str, Any]:
    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{shown(key)} comes twice")
            found[key] = value
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    if (size := len(text.encode())) > MAX_JSON_BYTES:
        raise InvalidRequest(SAMPLING_PARAMETERS, f"{size} bytes are over {MAX_JSON_BYTES}")
    try:
        found = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(SAMPLING_PARAMETERS, f"it is not JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(SAMPLING_PARAMETERS, "it is JSON, but no object")
    return found


def as_called(error: InvalidRequest, called: Mapping[str, str]) -> InvalidRequest:
    """The same refusal in the caller's words: options as they were named, inputs as tensors and their elements."""
    def theirs(match: re.Match[str]) -> str:
        return called.get(match[1], f"parameters.{match[1]}")

    field = re.sub(r"\boptions\.(\w+)", theirs, error.field).removesuffix(".text")
    if isinstance(error, InputTooLong):
        return InputTooLong(field, error.count, error.limit)
    return InvalidRequest(field, re.sub(r"\boptions\.(\w+)", theirs, error.message))
