"""What a recurrent encoder-decoder is made of, as one frozen value. A checkpoint family is a choice of these fields."""

from dataclasses import dataclass
from typing import Literal

from seqserve_export.model.fields import ConfigError, PlainConfig, check_fields, check_vocabularies

Score = Literal["additive", "dot", "general", "concat"]
Window = Literal["global", "monotonic", "predictive"]
Wiring = Literal["bahdanau", "luong"]

CHOICES: dict[str, tuple[str, ...]] = {
    "score": ("additive", "dot", "general", "concat"),
    "window": ("global", "monotonic", "predictive"),
    "wiring": ("bahdanau", "luong"),
}
# Above every such model there is, and low enough that none of them makes a model of no values run out of memory.
LIMITS = {
    "source_vocab_size": 1 << 24, "target_vocab_size": 1 << 24, "embedding_width": 1 << 16, "hidden_width": 1 << 16,
    "attention_width": 1 << 16, "encoder_layers": 1 << 6, "decoder_layers": 1 << 6,
    "max_source_length": 1 << 20, "max_target_length": 1 << 20, "half_window": 1 << 20,
}


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(PlainConfig):
    """Sizes and choices of one encoder-decoder of gated recurrent units with attention between the two sides.

    Lengths count tokens, special tokens included.

    Attributes:
        hidden_width: Of the states of both sides. A bidirectional encoder has half of it in each direction.
        encoder_layers, decoder_layers: The decoder's first states are the encoder's last ones, of its upper layers.
        padded_source_length: The encoder goes on over padding until it has read so many tokens; attention does not see
            them. The book's models are trained on sources padded to one length, and begin to decode after the padding.
        source_pad_id: That padding, a source id; ``pad_id`` is a target id, as the other two are.
        score: "additive" is ``w_v^T tanh(W_q q + W_k k)``, and "concat" the same with ``W_q`` and ``W_k`` as the two
            halves of Luong's ``W_a``; "dot" is ``q^T k``, "general" ``q^T W_a k``.
        attention_width: Of the sum inside the tanh; read for "additive" and "concat" only.
        scaled: Whether "dot" and "general" are divided by the root of ``hidden_width``.
        window: "global" attends to the whole source. The others attend to the tokens at most ``half_window`` from a
            centre: "monotonic" from the token of the same position, "predictive" from one that the state predicts.
        wiring: "bahdanau" attends with the state of the step before and feeds the context to the recurrence; "luong"
            attends with the new state, and answers by ``tanh(W_c [context; state])``, the attentional state.
        input_feeding: Whether "luong" feeds its attentional state to the recurrence of the next step.
    """

    source_vocab_size: int
    target_vocab_size: int
    embedding_width: int
    hidden_width: int
    encoder_layers: int
    decoder_layers: int
    max_source_length: int
    max_target_length: int

    pad_id: int
    eos_id: int
    decoder_start_id: int

    bidirectional: bool = False
    padded_source_length: int = 0
    source_pad_id: int = 0

    wiring: Wiring = "bahdanau"
    score: Score = "additive"
    attention_width: int = 1
    scaled: bool = False
    window: Window = "global"
    half_window: int = 10
    input_feeding: bool = False

    shared_embeddings: bool = False
    tied_output: bool = False
    output_bias: bool = True

    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check every field on its own and against the others.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        check_fields(self, CHOICES, LIMITS)
        check_vocabularies(self)
        if self.decoder_layers > self.encoder_layers:
            raise ConfigError(
                f"decoder_layers: {self.decoder_layers} is more than the {self.encoder_layers} encoder_layers, whose "
                f"last states are the decoder's first"
            )
        if self.bidirectional and self.hidden_width % 2:
            raise ConfigError(f"hidden_width: {self.hidden_width} is odd, and bidirectional halves it")
        if not 0 <= self.padded_source_length <= self.max_source_length:
            raise ConfigError(
                f"padded_source_length: {self.padded_source_length} is outside 0..{self.max_source_length}, "
                f"max_source_length"
            )
        if not 0 <= self.source_pad_id < self.source_vocab_size:
            raise ConfigError(
                f"source_pad_id: {self.source_pad_id} is outside the vocabulary of {self.source_vocab_size}"
            )
        if self.input_feeding and self.wiring != "luong":
            raise ConfigError(f"input_feeding: the wiring {self.wiring} has no attentional state to feed")
        if self.tied_output and self.embedding_width != self.hidden_width:
            raise ConfigError(
                f"tied_output: embedding_width {self.embedding_width} and hidden_width {self.hidden_width} differ"
            )

    @property
    def score_scale(self) -> float:
        """What queries are multiplied by where scores are products."""
        return self.hidden_width**-0.5 if self.scaled else 1.0

    @property
    def key_width(self) -> int:
        """How many numbers one source token is compared by."""
        return self.attention_width if self.score in ("additive", "concat") else self.hidden_width
