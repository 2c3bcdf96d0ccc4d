"""Protobuf messages to plain values and back. The only file, with ``service``, that knows the wire types."""

from collections.abc import Sequence

from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.admission import Options, Resolved, check_memory, complete_source, resolve_options
from seqserve_server.errors import InvalidRequest
from seqserve_server.request import Finished, FinishReason, Request, Times
from seqserve_server.served_model import ServedModel
from seqserve_server.tokenizer import Tokenizer

_REASONS = {
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def read_options(message: pb.GenerationOptions) -> Options:
    """Unset options stay None; zero is a value like any other."""
    return Options(
        max_new_tokens=message.max_new_tokens if message.HasField("max_new_tokens") else None,
        min_new_tokens=message.min_new_tokens if message.HasField("min_new_tokens") else None,
    )


def read_requests(
    inputs: Sequence[pb.Input], options: pb.GenerationOptions, model: ServedModel, *,
    field: str, max_text_bytes: int, deadline: float | None,
) -> list[Request]:
    """Check inputs and options, tokenise text, and complete every source.

    Raises:
        InvalidRequest: naming the field and the limit. Nothing has been started then.
    """
    resolved = resolve_options(read_options(options), model.description)
    return [
        _read_request(message, resolved, model, name, max_text_bytes, deadline)
        for message, name in zip(inputs, _names(field, len(inputs)), strict=True)
    ]


def _names(field: str, count: int) -> list[str]:
    return [f"{field}[{place}]" for place in range(count)] if field == "inputs" else [field] * count


def _read_request(
    message: pb.Input, options: Resolved, model: ServedModel, field: str, max_text_bytes: int, deadline: float | None
) -> Request:
    kind = message.WhichOneof("content")
    if kind is None:
        raise InvalidRequest(field, "one of text, tokens and token_ids is required")
    if kind == "token_ids":
        content: Sequence[int] = message.token_ids.ids
    elif model.tokenizer is None:
        raise InvalidRequest(f"{field}.{kind}", "this model has no tokenizer; send token_ids")
    elif kind == "tokens":
        limit = model.description.max_source_length
        content = _ids_of(message.tokens.tokens, model.tokenizer, f"{field}.tokens", limit)
    else:
        content = _ids_of_text(message.text, model.tokenizer, f"{field}.text", max_text_bytes)
    source = complete_source(content, model.description, f"{field}.{kind}")
    check_memory(len(source), options, model.limits)
    return Request(0, source, options.max_new_tokens, options.min_new_tokens, deadline=deadline)


def _ids_of(tokens: Sequence[str], tokenizer: Tokenizer, field: str, limit: int) -> list[int]:
    if len(tokens) > limit:
        raise InvalidRequest(field, f"{len(tokens)} tokens are over the limit of {limit}")
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
    return tokenizer.encode(text)


def write_result(ended: Finished, input_tokens: int, tokenizer: Tokenizer | None) -> pb.GenerationResult:
    """The answer to one input."""
    hypothesis = pb.Hypothesis(token_ids=ended.token_ids, score=ended.score)
    if tokenizer is not None:
        hypothesis.text = tokenizer.decode(ended.token_ids)
        hypothesis.tokens.extend(tokenizer.tokens(ended.token_ids))
    return pb.GenerationResult(
        hypotheses=[hypothesis],
        finish_reason=_REASONS[ended.reason],
        input_token_count=input_tokens,
        output_token_count=len(ended.log_probs),
        timing=_timing(ended.times),
    )


def _timing(times: Times) -> pb.Timing:
    """A request that got here went through every stage."""
    admitted, encoded, first, ended = times.admitted, times.encoded, times.first_token, times.ended
    if admitted is None or encoded is None or first is None or ended is None:
        raise AssertionError(f"a finished request skipped a stage: {times}")
    return pb.Timing(
        queue_seconds=admitted - times.arrival,
        encode_seconds=encoded - admitted,
        decode_seconds=ended - encoded,
        total_seconds=ended - times.arrival,
        first_token_seconds=first - times.arrival,
    )


def write_model_info(model: ServedModel, max_inputs: int, max_waiting: int) -> pb.ModelInfo:
    """What a client may know of a model."""
    description = model.description
    return pb.ModelInfo(
        name=description.name,
        version=model.version,
        family=description.family,
        precision=description.precision,
        limits=pb.ModelLimits(
            max_source_tokens=description.max_source_length,
            max_new_tokens=description.max_target_length,
            max_inputs=max_inputs,
            max_waiting_requests=max_waiting,
            source_vocab_size=description.source_vocab_size,
            target_vocab_size=description.target_vocab_size,
        ),
        defaults=pb.GenerationOptions(
            max_new_tokens=description.default_max_new_tokens,
            min_new_tokens=description.default_min_new_tokens,
        ),
        has_tokenizer=model.tokenizer is not None,
    )
