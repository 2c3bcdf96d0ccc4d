"""Decoding options: what they are called in Python, and as a message."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

from seqserve.v1 import seq2seq_pb2
from seqserve_client.errors import InvalidInput

Stopping = Literal["heuristic", "full", "exhaustive", "patience"]
Target = str | Sequence[str] | Sequence[int]


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
        prefix: What every answer begins with: a text, a list of tokens, or a list of ids. It counts neither in
            ``max_new_tokens`` nor in scores.
        prefix_bias: Over 0, below 1: the prefix is favoured and not forced, as with CTranslate2's
            ``prefix_bias_beta``; it then counts as generated.
        return_alternatives: Whether ``num_hypotheses`` different first tokens, behind the prefix, are taken and each
            is completed.
        min_alternative_probability: Alternatives whose first token is less probable are left out.
        coverage_penalty: Puts several hypotheses in order by how much of the source they attended to, too.
        replace_unknowns: Whether unknown tokens give way, in text and tokens, to the source token they attended to.
        return_alignment: Whether hypotheses come with their ``alignment``.
        required_phrases: Phrases that every answer holds, each a text, a list of tokens, or a list of ids. Needs a
            ``beam_size`` over 1.
        banned_phrases: Phrases that no answer holds, in the same forms; texts as the tokenizer writes them.
        max_source_tokens: Most source tokens, special tokens included; at most and by default the model's limit.
        stop: Texts at which generation ends; the answer's text ends before the first of them. Not with beams.
        truncate: Whether a longer source is cut off at its end; else it is refused. The result tells how much went.
        priority: Among waiting requests those of a higher one go first, though not for ever; -10 to 10, by default 0.
        tenant: On whose account the call goes, where a server shares itself between several: at most 64 ASCII letters,
            digits and any of ``._-``.
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
    prefix: Target | None
    prefix_bias: float | None
    return_alternatives: bool | None
    min_alternative_probability: float | None
    coverage_penalty: float | None
    replace_unknowns: bool | None
    return_alignment: bool | None
    required_phrases: Sequence[Target] | None
    banned_phrases: Sequence[Target] | None
    max_source_tokens: int | None
    truncate: bool | None
    stop: Sequence[str] | None
    priority: int | None
    tenant: str | None


class ScoreOptions(TypedDict, total=False):
    """How to score; an option left out, or None, takes the model's default.

    Attributes:
        source_language, target_language: Codes, for models that have several languages; ``info`` lists them.
        length_penalty: Scores are sums of log-probabilities divided by the length, end token included, to this power.
        return_alignment: Whether results come with their ``alignment``.
        alignment_layer: Whose attention alignments are, in place of the model's usual heads: a decoder layer, from 1.
        alignment_head: One of its heads, from 1; left out, their mean. ``info`` tells how many of both there are.
        priority, tenant: As of ``GenerationOptions``.
    """

    source_language: str | None
    target_language: str | None
    length_penalty: float | None
    return_alignment: bool | None
    alignment_layer: int | None
    alignment_head: int | None
    priority: int | None
    tenant: str | None


Metadata = tuple[tuple[str, str], ...]
TENANT: Literal["tenant"] = "tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{0,64}")
_OPTION_NAMES = tuple(seq2seq_pb2.GenerationOptions.DESCRIPTOR.fields_by_name)
_STOPPINGS: dict[str, int] = {
    name.removeprefix("STOPPING_").lower(): number for name, number in seq2seq_pb2.Stopping.items() if number
}


def options_message(options: GenerationOptions) -> seq2seq_pb2.GenerationOptions:
    """The message for options.

    Raises:
        TypeError: An unknown option.
        InvalidInput: A value that fits no message.
    """
    message = seq2seq_pb2.GenerationOptions()
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if name not in _OPTION_NAMES and name != TENANT:
            raise TypeError(f"unknown option {name!r}; known: {', '.join((*_OPTION_NAMES, TENANT))}")
        if value is None or name == TENANT:
            continue
        try:
            if name == "suppress_tokens":
                message.suppress_tokens.extend(_sequence(each) for each in value)
            elif name in ("required_phrases", "banned_phrases", "stop") and isinstance(value, str):
                raise TypeError(f"a list of texts, not the string {value!r:.40}")
            elif name == "stop":
                message.stop.extend(value)
            elif name in ("required_phrases", "banned_phrases"):
                getattr(message, name).extend(target_message(each) for each in value)
            elif name == "prefix":
                message.prefix.CopyFrom(target_message(value))
            else:
                setattr(message, name, _stopping_number(value) if name == "stopping" else value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"options.{name}: {error}", field=f"options.{name}") from None
    return message


def metadata_of(options: GenerationOptions | ScoreOptions) -> Metadata:
    """What goes beside the message.

    Raises:
        InvalidInput: A tenant that no header can carry or no server takes.
    """
    tenant: object = options.get(TENANT)
    if tenant is None:
        return ()
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        problem = f"{tenant!r:.80} is not a name of at most 64 ASCII letters, digits and any of . _ -"
        raise InvalidInput(f"options.tenant: {problem}", field="options.tenant")
    return (("x-tenant", tenant),)


def target_message(content: Target) -> seq2seq_pb2.Target:
    """The message for a target or a part of one: a text, a list of tokens or a list of ids.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if isinstance(content, str):
        return seq2seq_pb2.Target(text=content)
    if content and isinstance(content[0], str):
        return seq2seq_pb2.Target(tokens=seq2seq_pb2.Tokens(tokens=cast(Sequence[str], content)))
    return seq2seq_pb2.Target(token_ids=seq2seq_pb2.TokenIds(ids=cast(Sequence[int], content)))


def _sequence(ids: int | Sequence[int]) -> seq2seq_pb2.TokenIds:
    return seq2seq_pb2.TokenIds(ids=[ids] if isinstance(ids, int) else ids)


def _stopping_number(word: object) -> int:
    if not isinstance(word, str) or word not in _STOPPINGS:
        raise ValueError(f"{word!r:.40} is not one of {', '.join(_STOPPINGS)}")
    return _STOPPINGS[word]
