"""What the page sends: JSON to arguments of the client, with an error that names the field."""

import json
from dataclasses import dataclass
from typing import Any, cast

from seqserve_client import GenerationOptions, InvalidInput

CONTENTS = ("text", "token_ids")


@dataclass(frozen=True, slots=True)
class Question:
    """One source.

    Attributes:
        text, token_ids: Exactly one is given.
        model: None where only one is served.
        options: By the names of ``GenerationOptions``; the client and the server judge their values.
        target_ids: Of a target to look at, for ``score``; else None.
    """

    text: str | None
    token_ids: list[int] | None
    model: str | None
    options: GenerationOptions
    target_ids: list[int] | None = None


def question_from(body: bytes, *, with_target: bool = False) -> Question:
    """The question of a request's body.

    Raises:
        InvalidInput: it is not JSON, has a field of another type, or one that there is not.
    """
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the request is not JSON") from None
    if not isinstance(found, dict):
        raise _wrong("the request", "an object")
    known = {*CONTENTS, "model", "options", *(("target_ids",) if with_target else ())}
    if unknown := sorted(set(found) - known):
        raise InvalidInput(f"unknown field {unknown[0][:40]!r}")
    if sum(found.get(name) is not None for name in CONTENTS) != 1:
        raise InvalidInput("give exactly one of text and token_ids")
    text, model, options = found.get("text"), found.get("model"), found.get("options")
    options = {} if options is None else options
    if text is not None and not isinstance(text, str):
        raise _wrong("text", "a string")
    if model is not None and not isinstance(model, str):
        raise _wrong("model", "a string")
    if not isinstance(options, dict):
        raise _wrong("options", "an object")
    if isinstance(seed := options.get("seed"), str) and len(seed) <= 20 and seed.isdecimal():
        options["seed"] = int(seed)  # as digits, because a browser's numbers have 53 bits
    token_ids = _ids(found, "token_ids")
    target_ids = _ids(found, "target_ids")
    if with_target and target_ids is None:
        raise _wrong("target_ids", "a list of integers")
    return Question(text, token_ids, model or None, cast(GenerationOptions, options), target_ids)


def _ids(found: dict[str, Any], name: str) -> list[int] | None:
    ids = found.get(name)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise _wrong(name, "a list of integers")
    return ids


def _wrong(field: str, kind: str) -> InvalidInput:
    return InvalidInput(f"{field}: must be {kind}", field=field)
