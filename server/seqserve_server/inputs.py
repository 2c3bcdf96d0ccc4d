"""What a caller sends as a source or as part of a target, in any of its three forms, to checked ids."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame
from seqserve.text_errors import UnencodableText
from seqserve_server.admission import SourceLimit, check_length, complete_source, content_within
from seqserve_server.decoding.stop_texts import StopTexts
from seqserve_server.errors import InvalidRequest
from seqserve_server.token_options import check_stop
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer

MAX_TEXT_BYTES = 65536
Content = str | Sequence[str] | Sequence[int]


def read_source(
    kind: str, content: Content, model: ModelDescription, frame: Frame, tokenizer: Tokenizer | None, field: str, *,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> tuple[int, ...]:
    """Source ids with the family's special tokens around them; see ``read_limited_source``."""
    return read_limited_source(
        kind, content, model, frame, tokenizer, field, None, max_text_bytes=max_text_bytes
    )[0]


def read_limited_source(
    kind: str, content: Content, model: ModelDescription, frame: Frame, tokenizer: Tokenizer | None, field: str,
    limit: SourceLimit | None, *, max_text_bytes: int = MAX_TEXT_BYTES,
) -> tuple[tuple[int, ...], int]:
    """Source ids with the family's special tokens around them, and how many tokens of content were cut off.

    Args:
        kind: "text" (a string), "tokens" (vocabulary entries) or "token_ids".
        frame: The special tokens, for the languages asked for.
        field: What errors call the input, such as ``inputs[3]``.
        limit: By default the model's, and nothing is cut off. What is cut off of tokens and ids is not looked at.

    Raises:
        InvalidRequest: empty, unknown tokens, ids or languages, too long, or text where the bundle has no tokenizer.
    """
    name = f"{field}.{kind}"
    whole: Sequence[str] | Sequence[int] = content
    if kind == "token_ids":
        some: Sequence[Any] = content_within(content, frame, limit)
        check_length(len(some), model, name, limit)  # before they are copied
        kept: Sequence[int] = [int(token_id) for token_id in some]
    elif tokenizer is None:
        raise InvalidRequest(name, "this model has no tokenizer; send token_ids")
    elif isinstance(content, str):
        whole = _ids_of_text(content, tokenizer, name, max_text_bytes)
        kept = content_within(whole, frame, limit)
    else:
        tokens = content_within(content, frame, limit)
        check_length(len(tokens), model, name, limit)  # before the look-ups: no work on what is refused anyway
        kept = _ids_of_tokens([str(token) for token in tokens], tokenizer.id_of, name)
    return complete_source(kept, model, frame, name, limit), len(whole) - len(kept)


def read_target(
    kind: str, content: Content, model: ModelDescription, tokenizer: Tokenizer | None, field: str, *,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> tuple[int, ...]:
    """Target ids, content only; none where there is none.

    Args:
        kind: "text" (a string), "tokens" (vocabulary entries) or "token_ids".
        field: What errors call it, such as ``options.prefix``.

    Raises:
        InvalidRequest: unknown tokens or ids, more than the model generates, the end token among them, or
            text where the bundle has no tokenizer.
    """
    name = f"{field}.{kind}"
    if kind != "text" and len(content) > model.max_new_tokens:  # before the look-ups
        raise InvalidRequest(name, f"{len(content)} tokens are over the {model.max_new_tokens} of the model")
    if kind == "token_ids":
        ids = [int(token_id) for token_id in content]
    elif tokenizer is None:
        raise InvalidRequest(name, "this model has no tokenizer; send token_ids")
    elif isinstance(content, str):
        _check_bytes(content, name, max_text_bytes)
        try:
            ids = tokenizer.encode_target(content) if content.strip() else []
        except UnencodableText as error:
            raise InvalidRequest(name, str(error)) from None
    else:
        ids = _ids_of_tokens([str(token) for token in content], tokenizer.target_id_of, name)
    _check_target(ids, model, name)
    return tuple(ids)


def read_stop(texts: Sequence[str], tokenizer: Tokenizer | None) -> StopTexts | None:
    """Texts at which answers end; None for none of them.

    Raises:
        InvalidRequest: too many, an empty or a long one, or a bundle without a tokenizer.
    """
    check_stop(texts)
    if not texts:
        return None
    if tokenizer is None:
        raise InvalidRequest("options.stop", "this model has no tokenizer, so its answers have no text")
    return StopTexts.of(texts, partial(IncrementalDetokenizer, tokenizer))


def _check_target(ids: Sequence[int], model: ModelDescription, field: str) -> None:
    if len(ids) > model.max_new_tokens:
        raise InvalidRequest(field, f"{len(ids)} tokens are over the {model.max_new_tokens} of the model")
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < model.target_vocab_size:
            raise InvalidRequest(f"{field}[{place}]", f"id {token_id} is outside 0..{model.target_vocab_size - 1}")
        if token_id == model.eos_id:
            raise InvalidRequest(f"{field}[{place}]", f"id {token_id} is the end token, which is no content")


def _ids_of_tokens(tokens: Sequence[str], id_of: Callable[[str], int | None], field: str) -> list[int]:
    ids = []
    for place, token in enumerate(tokens):
        token_id = id_of(token)
        if token_id is None:
            raise InvalidRequest(f"{field}[{place}]", "not in the vocabulary")
        ids.append(token_id)
    return ids


def _ids_of_text(text: str, tokenizer: Tokenizer, field: str, max_bytes: int) -> list[int]:
    _check_bytes(text, field, max_bytes)
    if not text.strip():
        raise InvalidRequest(field, "empty or only whitespace: there is nothing to encode")
    try:
        return tokenizer.encode(text)
    except UnencodableText as error:
        raise InvalidRequest(field, str(error)) from None


def _check_bytes(text: str, field: str, most: int) -> None:
    """Before tokenising: no work on what is refused anyway."""
    size = len(text.encode())
    if size > most:
        raise InvalidRequest(field, f"{size} bytes are over the limit of {most}")
