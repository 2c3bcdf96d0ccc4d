"""Protobuf messages to plain values and back. The only file, with ``service``, that knows the wire types."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from seqserve.bundle import ModelDescription
from seqserve.search_defaults import SearchDefaults
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.admission import Resolved
from seqserve_server.answers import Answer, Asked
from seqserve_server.decoding.search import Stopping
from seqserve_server.errors import InvalidRequest
from seqserve_server.inputs import Content, read_stop, read_target
from seqserve_server.phrase_options import MAX_PHRASES
from seqserve_server.reading import read_requests, resolve
from seqserve_server.request import Durations, FinishReason
from seqserve_server.search_options import Options, most_beams, search_defaults
from seqserve_server.served_model import ServedModel
from seqserve_server.token_options import MAX_SUPPRESSED_IDS, check_count

MOST_KEPT = 256  # different options of one model that are kept
LONGEST_KEPT = 256  # bytes of their message
_RESOLVED: WeakKeyDictionary[ServedModel, dict[tuple[bytes, int], Resolved]] = WeakKeyDictionary()
_REASONS = {
    FinishReason.EOS.value: pb.FINISH_REASON_EOS,
    FinishReason.LENGTH.value: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP.value: pb.FINISH_REASON_STOP,
}
_STOPPINGS = {
    Stopping.HEURISTIC: pb.STOPPING_HEURISTIC,
    Stopping.FULL: pb.STOPPING_FULL,
    Stopping.EXHAUSTIVE: pb.STOPPING_EXHAUSTIVE,
    Stopping.PATIENCE: pb.STOPPING_PATIENCE,
}


def read_options(message: pb.GenerationOptions, model: ServedModel, max_text_bytes: int) -> Options:
    """Unset options stay None; zero is a value like any other.

    An empty list is unset: the wire does not tell them apart.

    Raises:
        InvalidRequest: a stopping rule that this version does not know, or what ``read_target`` refuses.
    """
    given = {field.name: value for field, value in message.ListFields()}
    if (number := given.pop("stopping", pb.STOPPING_UNSPECIFIED)) != pb.STOPPING_UNSPECIFIED:
        rules = {theirs: ours for ours, theirs in _STOPPINGS.items()}
        if number not in rules:
            known = ", ".join(f"{rule.value} ({theirs})" for theirs, rule in rules.items())
            raise InvalidRequest("options.stopping", f"{number} is none of {known}")
        given["stopping"] = rules[number]
    if (sequences := given.get("suppress_tokens")) is not None:
        check_count(len(sequences), "options.suppress_tokens", MAX_SUPPRESSED_IDS)
        given["suppress_tokens"] = [list(sequence.ids) for sequence in sequences]

    def target(part: pb.Target, field: str) -> tuple[int, ...]:
        kind, content = content_of(part, field)
        return read_target(
            kind, content, model.description, model.tokenizer, field, max_text_bytes=max_text_bytes
        )

    if (prefix := given.get("prefix")) is not None:
        given["prefix"] = target(prefix, "options.prefix")
    for name in ("required_phrases", "banned_phrases"):
        if (phrases := given.get(name)) is not None:
            check_count(len(phrases), f"options.{name}", MAX_PHRASES)  # before any is tokenised
            given[name] = tuple(target(each, f"options.{name}[{place}]") for place, each in enumerate(phrases))
    if (texts := given.get("stop")) is not None:
        given["stop"] = read_stop(texts, model.tokenizer)
    return Options(**given)


def content_of(message: pb.Input | pb.Target, field: str) -> tuple[str, Content]:
    """Which of its three forms a message has, and what is in it.

    Raises:
        InvalidRequest: it has none.
    """
    kind = message.WhichOneof("content")
    if kind is None:
        raise InvalidRequest(field, "one of text, tokens and token_ids is required")
    if kind == "text":
        return kind, message.text
    return kind, message.token_ids.ids if kind == "token_ids" else message.tokens.tokens


def read_inputs(
    inputs: Sequence[pb.Input], options: pb.GenerationOptions, model: ServedModel, *,
    field: str, max_text_bytes: int, deadline: float | None, tenant: str = "",
) -> list[Asked]:
    """Check inputs and options, tokenise text, and complete every source.

    Raises:
        InvalidRequest: naming the field and the limit. Nothing has been started then.
        NoScorer: something is asked for that needs one.
    """
    names = _names(field, len(inputs))
    return read_requests(
        [content_of(message, name) for message, name in zip(inputs, names, strict=True)], names,
        _resolved(options, model, max_text_bytes), model,
        streamed=field == "input", max_text_bytes=max_text_bytes, deadline=deadline, tenant=tenant,
    )


def _resolved(message: pb.GenerationOptions, model: ServedModel, max_text_bytes: int) -> Resolved:
    """Options that came before are not looked at again: most callers send the same few with every request."""
    key, known = message.SerializeToString(deterministic=True), _RESOLVED.setdefault(model, {})
    found = known.get((key, max_text_bytes))
    if found is None:
        found = resolve(read_options(message, model, max_text_bytes), model)
        if len(key) <= LONGEST_KEPT:
            if len(known) >= MOST_KEPT:
                known.clear()
            known[key, max_text_bytes] = found
    return found


def _names(field: str, count: int) -> list[str]:
    return [f"{field}[{place}]" for place in range(count)] if field == "inputs" else [field] * count


def write_answer(answer: Answer) -> pb.GenerationResult:
    """The answer to one input."""
    return pb.GenerationResult(
        hypotheses=[
            pb.Hypothesis(
                text=each.text, tokens=each.tokens, token_ids=each.token_ids, score=each.score,
                token_log_probs=each.token_log_probs,
                alignment=None if each.alignment is None else write_alignment(each.alignment),
            )
            for each in answer.hypotheses
        ],
        finish_reason=_REASONS[answer.finish_reason],
        input_token_count=answer.input_token_count,
        output_token_count=answer.output_token_count,
        timing=_timing(answer.timing),
        seed=answer.seed,
        truncated_token_count=answer.truncated_token_count,
        source_tokens=answer.source_tokens,
    )


def write_alignment(weights: Sequence[Sequence[float]]) -> pb.Alignment:
    """[target, source], row by row."""
    return pb.Alignment(rows=[pb.AlignmentRow(weights=row) for row in weights])


def _timing(spent: Durations) -> pb.Timing:
    return pb.Timing(
        queue_seconds=spent.queue,
        encode_seconds=spent.encode,
        decode_seconds=spent.decode,
        total_seconds=spent.total,
        first_token_seconds=spent.first_token,
    )


def write_tokenized(token_ids: list[int], tokens: list[str]) -> pb.TokenizedText:
    """The tokens of one text."""
    return pb.TokenizedText(token_ids=token_ids, tokens=tokens)


def write_model_info(model: ServedModel, max_inputs: int, max_waiting: int) -> pb.ModelInfo:
    """What a client may know of a model."""
    layers, heads = model.engine.choosable_heads
    description, max_beam_size = model.description, most_beams(model.limits.max_rows)
    search = search_defaults(description, max_beam_size)
    return pb.ModelInfo(
        name=description.name,
        version=model.version,
        family=description.family,
        precision=description.precision,
        limits=pb.ModelLimits(
            max_source_tokens=description.max_source_length,
            max_new_tokens=description.max_new_tokens,
            max_inputs=max_inputs,
            max_waiting_requests=max_waiting,
            source_vocab_size=description.source_vocab_size,
            target_vocab_size=description.target_vocab_size,
            max_beam_size=max_beam_size,
        ),
        defaults=_defaults(description, search),
        languages=sorted(description.languages),
        has_tokenizer=model.tokenizer is not None,
        has_scorer=model.engine.can_score,
        alignment_source=str(description.alignment) if model.engine.can_score and description.alignment else "",
        alignment_layers=layers,
        alignment_heads=heads,
    )


def _defaults(description: ModelDescription, search: SearchDefaults) -> pb.GenerationOptions:
    """What unset options mean. Sent back they mean the same, so those are left out that ask for a rule or a draw."""
    patient = search.stopping == Stopping.PATIENCE.value
    return pb.GenerationOptions(
        max_new_tokens=description.default_max_new_tokens,
        min_new_tokens=description.default_min_new_tokens,
        source_language=description.default_source_language,
        target_language=description.default_target_language,
        beam_size=search.beam_size,
        num_hypotheses=1,
        length_penalty=search.length_penalty,
        patience=search.patience if patient else None,
        stopping=_STOPPINGS[Stopping(search.stopping)],
        repetition_penalty=search.repetition_penalty,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        sample=search.sample,
        temperature=search.temperature if search.sample else None,
        top_k=search.top_k if search.sample else None,
        top_p=search.top_p if search.sample else None,
        return_logprobs=False,
    )
