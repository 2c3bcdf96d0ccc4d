"""Between Python values and protobuf messages; with ``options`` the only file that knows the messages' fields."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from seqserve.v1 import seq2seq_pb2
from seqserve_client.errors import InvalidInput
from seqserve_client.options import GenerationOptions, options_message
from seqserve_client.results import (
    Chunk,
    Hypothesis,
    ModelInfo,
    ModelLimits,
    Result,
    ServerInfo,
    Timing,
    TokenizedText,
)

_LIMIT_NAMES = tuple(seq2seq_pb2.ModelLimits.DESCRIPTOR.fields_by_name)


def generate_request(
    texts: Sequence[str] | None,
    tokens: Sequence[Sequence[str]] | None,
    token_ids: Sequence[Sequence[int]] | None,
    model: str | None,
    options: GenerationOptions,
) -> seq2seq_pb2.GenerateRequest:
    """The message for many inputs.

    Raises:
        TypeError: A wrong Python call: not exactly one kind of input, a bare string, an unknown option.
        InvalidInput: A value that fits no message, such as a token id beyond 32 bits.
    """
    for name, value in (("texts", texts), ("tokens", tokens)):
        if isinstance(value, str):
            raise TypeError(f"{name} is a list with one entry per input; for one input write {name}=[{value!r}]")
    inputs = _inputs("texts", texts, tokens, token_ids)
    return seq2seq_pb2.GenerateRequest(model=model or "", inputs=inputs, options=options_message(options))


def stream_request(
    text: str | None,
    tokens: Sequence[str] | None,
    token_ids: Sequence[int] | None,
    model: str | None,
    options: GenerationOptions,
) -> seq2seq_pb2.GenerateStreamRequest:
    """The message for one input; raises as ``generate_request`` does."""
    texts, token_lists, id_lists = (None if value is None else [value] for value in (text, tokens, token_ids))
    inputs = _inputs("text", texts, token_lists, id_lists)
    return seq2seq_pb2.GenerateStreamRequest(model=model or "", input=inputs[0], options=options_message(options))


def _inputs(
    text_name: str,
    texts: Iterable[str | Any] | None,
    tokens: Iterable[Sequence[str] | Any] | None,
    token_ids: Iterable[Sequence[int] | Any] | None,
) -> list[seq2seq_pb2.Input]:
    given = {
        name: value
        for name, value in ((text_name, texts), ("tokens", tokens), ("token_ids", token_ids))
        if value is not None
    }
    if len(given) != 1:
        raise TypeError(f"give exactly one of {text_name}, tokens and token_ids, not {' and '.join(given) or 'none'}")
    ((name, values),) = given.items()
    convert = {"tokens": _tokens_input, "token_ids": _token_ids_input}.get(name, _text_input)
    inputs = []
    for index, value in enumerate(values):
        try:
            inputs.append(convert(value))
        except TypeError as error:
            raise TypeError(f"{name}, input {index}: {error}") from None
        except ValueError as error:  # out of 32 bits, or a lone surrogate
            path = "input" if text_name == "text" else f"inputs[{index}]"
            field = f"{path}.{'text' if convert is _text_input else name}"
            raise InvalidInput(f"{field}: {error}", field=field) from None
    return inputs


def _text_input(text: Any) -> seq2seq_pb2.Input:
    if not isinstance(text, str):
        raise TypeError(f"expected a string, not {type(text).__name__}")
    return seq2seq_pb2.Input(text=text)


def _tokens_input(tokens: Any) -> seq2seq_pb2.Input:
    if isinstance(tokens, str | bytes):
        raise TypeError(f"expected a list of strings, not the string {tokens!r}")
    return seq2seq_pb2.Input(tokens=seq2seq_pb2.Tokens(tokens=tokens))


def _token_ids_input(token_ids: Any) -> seq2seq_pb2.Input:
    if isinstance(token_ids, int | str | bytes):
        raise TypeError(f"expected a list of ids, not {token_ids!r}")
    return seq2seq_pb2.Input(token_ids=seq2seq_pb2.TokenIds(ids=token_ids))


def results_from(response: seq2seq_pb2.GenerateResponse) -> list[Result]:
    """One result per input, in input order."""
    return [_result(result) for result in response.results]


def chunk_from(response: seq2seq_pb2.GenerateStreamResponse) -> Chunk:
    """One message of a stream."""
    result = _result(response.result) if response.HasField("result") else None
    return Chunk(text=response.text, token_ids=list(response.token_ids), result=result)


def _result(message: seq2seq_pb2.GenerationResult) -> Result:
    return Result(
        hypotheses=[
            Hypothesis(
                text=each.text, tokens=list(each.tokens), token_ids=list(each.token_ids), score=each.score,
                token_log_probs=list(each.token_log_probs),
                alignment=alignment_from(each.alignment.rows) if each.HasField("alignment") else None,
            )
            for each in message.hypotheses
        ],
        finish_reason=_finish_reason(message.finish_reason),
        input_token_count=message.input_token_count,
        output_token_count=message.output_token_count,
        timing=Timing(
            queue=message.timing.queue_seconds,
            encode=message.timing.encode_seconds,
            decode=message.timing.decode_seconds,
            total=message.timing.total_seconds,
            first_token=message.timing.first_token_seconds,
        ),
        seed=message.seed if message.HasField("seed") else None,
        source_tokens=list(message.source_tokens),
        truncated_token_count=message.truncated_token_count,
    )


def alignment_from(rows: Iterable[seq2seq_pb2.AlignmentRow]) -> list[list[float]]:
    """One list of weights per target token."""
    return [list(row.weights) for row in rows]


def _finish_reason(number: int) -> str:
    try:
        return seq2seq_pb2.FinishReason.Name(number).removeprefix("FINISH_REASON_").lower()
    except ValueError:  # a newer server knows reasons that this client does not
        return "unknown"


def info_from(response: seq2seq_pb2.GetModelInfoResponse) -> ServerInfo:
    """The models of a server."""
    return ServerInfo(
        models=[
            ModelInfo(
                name=model.name,
                version=model.version,
                family=model.family,
                precision=model.precision,
                has_tokenizer=model.has_tokenizer,
                limits=ModelLimits(**{name: getattr(model.limits, name) for name in _LIMIT_NAMES}),
                defaults=_set_fields(model.defaults),
                languages=list(model.languages),
                has_scorer=model.has_scorer,
                alignment_source=model.alignment_source,
                alignment_layers=model.alignment_layers,
                alignment_heads=model.alignment_heads,
            )
            for model in response.models
        ],
        server_version=response.server_version,
    )


def _set_fields(message: Message) -> dict[str, Any]:
    return {field.name: _word(field, value) for field, value in message.ListFields()}


def _word(field: FieldDescriptor, value: Any) -> Any:
    """Enumerated values as the words that options take; those that this client does not know as they are."""
    if field.enum_type is None or value not in field.enum_type.values_by_number:
        return value
    return field.enum_type.values_by_number[value].name.removeprefix(f"{field.name.upper()}_").lower()


def tokenize_request(
    texts: Sequence[str], model: str | None, add_special_tokens: bool, source_language: str | None
) -> seq2seq_pb2.TokenizeRequest:
    """The message for texts to tokenise; raises as ``generate_request`` does."""
    if isinstance(texts, str):
        raise TypeError(f"texts is a list with one entry per text; for one text write [{texts!r}]")
    request = seq2seq_pb2.TokenizeRequest(
        model=model or "", add_special_tokens=add_special_tokens, source_language=source_language
    )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts, entry {index}: expected a string, not {type(text).__name__}")
        try:
            request.texts.append(text)
        except ValueError as error:  # a lone surrogate
            field = f"texts[{index}]"
            raise InvalidInput(f"{field}: {error}", field=field) from None
    return request


def detokenize_request(token_ids: Sequence[Sequence[int]], model: str | None) -> seq2seq_pb2.DetokenizeRequest:
    """The message for sequences of ids; raises as ``generate_request`` does."""
    request = seq2seq_pb2.DetokenizeRequest(model=model or "")
    for index, ids in enumerate(token_ids):
        if isinstance(ids, int | str | bytes):
            raise TypeError(f"token_ids is a list of lists; entry {index} is {ids!r}")
        try:
            request.token_ids.add(ids=ids)
        except TypeError as error:
            raise TypeError(f"token_ids, entry {index}: {error}") from None
        except ValueError as error:  # out of 32 bits
            field = f"token_ids[{index}]"
            raise InvalidInput(f"{field}: {error}", field=field) from None
    return request


def tokenized_from(response: seq2seq_pb2.TokenizeResponse) -> list[TokenizedText]:
    """One result per text."""
    return [TokenizedText(list(result.token_ids), list(result.tokens)) for result in response.results]
