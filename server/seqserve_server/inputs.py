"""What a caller sends as a source, in any of its three forms, to complete and checked source ids."""

from collections.abc import Sequence

from seqserve.bundle import ModelDescription
from seqserve.framing import Frame
from seqserve.marian_text import UnknownLanguage
from seqserve.word_text import UnknownWord
from seqserve_server.admission import check_length, complete_source
from seqserve_server.errors import InvalidRequest
from seqserve_server.tokenizer import Tokenizer

MAX_TEXT_BYTES = 65536
Content = str | Sequence[str] | Sequence[int]


def read_source(
    kind: str, content: Content, model: ModelDescription, frame: Frame, tokenizer: Tokenizer | None, field: str, *,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> tuple[int, ...]:
    """Source ids with the family's special tokens around them.

    Args:
        kind: "text" (a string), "tokens" (vocabulary entries) or "token_ids".
        frame: The special tokens, for the languages asked for.
        field: What errors call the input, such as ``inputs[3]``.

    Raises:
        InvalidRequest: empty, unknown tokens, ids or languages, too long, or text where the bundle has no tokenizer.
    """
    name = f"{field}.{kind}"
    if kind == "token_ids":
        return complete_source([int(token_id) for token_id in content], model, frame, name)
    if tokenizer is None:
        raise InvalidRequest(name, "this model has no tokenizer; send token_ids")
    if isinstance(content, str):
        return complete_source(_ids_of_text(content, tokenizer, name, max_text_bytes), model, frame, name)
    check_length(len(content), model, name)  # before the look-ups: no work on what is refused anyway
    return complete_source(_ids_of_tokens([str(token) for token in content], tokenizer, name), model, frame, name)


def _ids_of_tokens(tokens: Sequence[str], tokenizer: Tokenizer, field: str) -> list[int]:
    ids = []
    for place, token in enumerate(tokens):
        token_id = tokenizer.id_of(token)
        if token_id is None:
            raise InvalidRequest(f"{field}[{place}]", f"{token[:40]!r} is not in the vocabulary")
        ids.append(token_id)
    return ids


def _ids_of_text(text: str, tokenizer: Tokenizer, field: str, max_bytes: int) -> list[int]:
    size = len(text.encode())
    if size > max_bytes:  # before tokenising: no work on what is refused anyway
        raise InvalidRequest(field, f"{size} bytes are over the limit of {max_bytes}")
    if not text.strip():
        raise InvalidRequest(field, "empty or only whitespace: there is nothing to encode")
    try:
        return tokenizer.encode(text)
    except (UnknownLanguage, UnknownWord) as error:
        raise InvalidRequest(field, str(error)) from None
