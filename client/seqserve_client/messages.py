"""Between Python values and protobuf messages; the only file of the client that knows the messages' fields."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from seqserve.v1 import seq2seq_pb2
from seqserve_client.errors import InvalidInput
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

Stopping = Literal["heuristic", "full", "exhaustive", "patience"]


class GenerationOptions(TypedDict, total=False):
    """How to decode; an option left out, or None, takes the model's default.

    Attributes:
        max_new_tokens: Most generated tokens, the end token included.
        min_new_tokens: Fewest generated tokens before the end token may be chosen.
        source_language, target_language: Codes, for models that have several languages; ``info`` lists them.
        beam_size: Most hypotheses that are kept at every step; 1 is greedy.
        num_hypotheses: How many to return, at most ``beam_size``; 1 where it is left out, whatever the model.
        length_penalty: Scores are sums of log-probabilities divided by the length, end token included, to this power.
        patience: With the stopping rule "patience", which it implies: the search ends when ``beam_size * patience``
            hypotheses have.
        stopping: When a beam search is over, beside its limit of tokens: "heuristic", "full" or "exhaustive"
            (transformers' ``early_stopping`` False, True and "never"), or "patience" (CTranslate2's rule).
        repetition_penalty: Tokens that came before have their logits divided by it where they are positive, else
            multiplied (in a beam search, as in transformers, their log-probabilities); 1 changes nothing.
        no_repeat_ngram_size: No sequence of so many tokens comes twice; 0 is off.
        suppress_tokens: Target ids that are not generated, and sequences of ids of which the last does not follow the
            others.
        sample: Whether tokens are drawn instead of chosen, which the four below imply; not with beams.
        temperature: Logits are divided by it before a token is drawn.
        top_k: Only so many best tokens are drawn from; 0 is all.
        top_p: Of those, only the best whose probabilities together reach this.
        seed: With the same one, the same input gets the same answer; left out, every input gets a random one.
        return_logprobs: Whether hypotheses come with ``token_log_probs``.
    """

    max_new_tokens: int | None
    min_new_tokens: int | None
    source_language: str | None
    target_language: str | None
    beam_size: int | None
    num_hypotheses: int | None
    length_penalty: float | None
    patience: float | None
    stopping: Stopping | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    suppress_tokens: Sequence[int | Sequence[int]] | None
    sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    return_logprobs: bool | None


_OPTION_NAMES = tuple(seq2seq_pb2.GenerationOptions.DESCRIPTOR.fields_by_name)
_STOPPINGS: dict[str, int] = {
    name.removeprefix("STOPPING_").lower(): number for name, number in seq2seq_pb2.Stopping.items() if number
}
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
    return seq2seq_pb2.GenerateRequest(model=model or "", inputs=inputs, options=_options(options))


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
    return seq2seq_pb2.GenerateStreamRequest(model=model or "", input=inputs[0], options=_options(options))


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


def _options(options: GenerationOptions) -> seq2seq_pb2.GenerationOptions:
    message = seq2seq_pb2.GenerationOptions()
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if name not in _OPTION_NAMES:
            raise TypeError(f"unknown option {name!r}; known: {', '.join(_OPTION_NAMES)}")
        if value is None:
            continue
        try:
            if name == "suppress_tokens":
                message.suppress_tokens.extend(_sequence(each) for each in value)
            else:
                setattr(message, name, _stopping_number(value) if name == "stopping" else value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"options.{name}: {error}", field=f"options.{name}") from None
    return message


def _sequence(ids: int | Sequence[int]) -> seq2seq_pb2.TokenIds:
    return seq2seq_pb2.TokenIds(ids=[ids] if isinstance(ids, int) else ids)


def _stopping_number(word: object) -> int:
    if not isinstance(word, str) or word not in _STOPPINGS:
        raise ValueError(f"{word!r:.40} is not one of {', '.join(_STOPPINGS)}")
    return _STOPPINGS[word]


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
    )


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
