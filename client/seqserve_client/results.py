"""What calls return. Frozen; lists inside are fresh copies that belong to the caller."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated sequence.

    Attributes:
        text: Detokenised text; empty where the model has no tokenizer.
        tokens: Pieces, without start and end tokens; empty where the model has no tokenizer.
        token_ids: Ids, without start and end tokens.
        score: Sum of the token log-probabilities, end token included, divided by the number of those tokens to the
            power of ``length_penalty``. In a beam search with a ``repetition_penalty`` those after it; else the model's
            own, whatever was banned or drawn.
        token_log_probs: They, in order, that of the end token last where there is one; empty unless asked for with
            ``return_logprobs``.
        alignment: For each of ``token_ids``, the weight of each source token, special tokens included; a row adds up
            to 1. None unless asked for with ``return_alignment``.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    token_log_probs: list[float] = field(default_factory=list)
    alignment: list[list[float]] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that one input spent inside the server.

    Attributes:
        queue: From arrival until the encoder took it.
        encode: In the encoder.
        decode: From the end of the encoder to the last token.
        total: From arrival to the last token.
        first_token: From arrival to the first token.
    """

    queue: float
    encode: float
    decode: float
    total: float
    first_token: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one input.

    Attributes:
        hypotheses: Best first; at least one, and at most ``num_hypotheses``.
        finish_reason: Why the best one ended: "eos", "length", "stop", "deadline" or "cancelled".
        input_token_count: Source tokens as the encoder saw them, special tokens included.
        output_token_count: Generated tokens of the best one, the end token included.
        timing: Where the time went.
        seed: What the tokens were drawn with; None where they were not drawn.
        truncated_token_count: Source tokens that ``truncate`` cut off.
        source_tokens: The columns of alignments; empty without them, and where the model has no tokenizer.
    """

    hypotheses: list[Hypothesis]
    finish_reason: str
    input_token_count: int
    output_token_count: int
    timing: Timing
    seed: int | None = None
    truncated_token_count: int = 0
    source_tokens: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Text of the best hypothesis."""
        return self.hypotheses[0].text


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that became final since the chunk before.

    Attributes:
        text: Whole characters only; all chunks joined give the text of the result.
        token_ids: The new ids.
        result: Set on the last chunk only.
    """

    text: str
    token_ids: list[int]
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What the model thinks of one target.

    Attributes:
        score: Sum of the log-probabilities divided by their number to the power of ``length_penalty``.
        token_log_probs: Of every token of the target, then of the end token.
        token_ids: Ids of the target, without the end token.
        tokens: Their entries in the target's vocabulary; empty where the model has no tokenizer.
        input_token_count: Source tokens as the encoder saw them, special tokens included.
        alignment: For each of ``token_ids``, the weight of each source token, special tokens included; a row adds up
            to 1. None unless asked for with ``return_alignment``.
        source_tokens: What its columns stand for; empty without it, and where the model has no tokenizer.
    """

    score: float
    token_log_probs: list[float]
    token_ids: list[int]
    tokens: list[str]
    input_token_count: int
    alignment: list[list[float]] | None = None
    source_tokens: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of one text.

    Attributes:
        token_ids: Ids of the source vocabulary.
        tokens: The source's entry of each id.
    """

    token_ids: list[int]
    tokens: list[str]


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Bounds on one request.

    Attributes:
        max_source_tokens: Most source tokens, special tokens included.
        max_new_tokens: Most generated tokens, the end token included.
        max_inputs: Most inputs in one call.
        max_waiting_requests: Most requests that wait; beyond it calls raise ``QueueFull``.
        source_vocab_size: Ids below this are valid source ids.
        target_vocab_size: Ids below this are valid target ids.
        max_beam_size: Most hypotheses that one request may keep.
    """

    max_source_tokens: int
    max_new_tokens: int
    max_inputs: int
    max_waiting_requests: int
    source_vocab_size: int
    target_vocab_size: int
    max_beam_size: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One served model.

    Attributes:
        name: What ``model=`` takes.
        version: Version of the bundle: the start of its manifest's SHA-256.
        family: Checkpoint family, such as "marian".
        precision: "fp32", "fp16" or "int8".
        has_tokenizer: Whether text can be sent, or only tokens and ids.
        limits: What a request may ask for.
        defaults: What an unset option means, by option name.
        languages: Codes that ``source_language`` and ``target_language`` take; empty for models without languages.
        has_scorer: Whether ``score`` is answered, and alignments with it.
        alignment_source: Whose attention an alignment is, such as "layer 3 of 4, mean of 8 heads"; empty without a
            scorer.
        alignment_layers, alignment_heads: Decoder layers, and heads of each, that ``score`` can choose from for
            alignments; 0 where there is no choice.
    """

    name: str
    version: str
    family: str
    precision: str
    has_tokenizer: bool
    limits: ModelLimits
    defaults: dict[str, int | float | str | bool]
    languages: list[str] = field(default_factory=list)
    has_scorer: bool = False
    alignment_source: str = ""
    alignment_layers: int = 0
    alignment_heads: int = 0


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server and its models."""

    models: list[ModelInfo]
    server_version: str
