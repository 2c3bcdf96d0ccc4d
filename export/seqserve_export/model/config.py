"""What a Transformer is made of, as one frozen value. A checkpoint family is a choice of these fields."""

from dataclasses import dataclass
from typing import Literal

from seqserve_export.model.fields import ConfigError as ConfigError
from seqserve_export.model.fields import PlainConfig, check_fields, check_vocabularies

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Norm = Literal["layer", "rms"]
NormPosition = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned", "relative"]
SinusoidOrder = Literal["interleaved", "concatenated", "fairseq"]
DecoderMixing = Literal["attention", "retention"]

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("relu", "gelu", "gelu_tanh", "silu"),
    "norm": ("layer", "rms"),
    "norm_position": ("pre", "post"),
    "positions": ("sinusoidal", "learned", "relative"),
    "sinusoid_order": ("interleaved", "concatenated", "fairseq"),
    "decoder_mixing": ("attention", "retention"),
}
# Above every model there is, and low enough that none of them makes a model of no values run out of memory.
LIMITS = {
    "source_vocab_size": 1 << 24, "target_vocab_size": 1 << 24, "width": 1 << 16, "heads": 1 << 10,
    "head_size": 1 << 14, "ffn_width": 1 << 20, "encoder_layers": 1 << 10, "decoder_layers": 1 << 10,
    "max_source_length": 1 << 20, "max_target_length": 1 << 20, "relative_buckets": 1 << 16,
    "relative_max_distance": 1 << 20,
}
MAX_TABLE = 1 << 28  # values of a position table that is computed: 1 GiB


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(PlainConfig):
    """Sizes and choices of one encoder-decoder. Lengths count tokens, special tokens included.

    ``head_size`` is free of ``width / heads`` (T5-3B has 128-wide heads in 1024 / 32). ``positions`` "sinusoidal"
    computes the table of "Attention Is All You Need", section 3.5, with sine and cosine interleaved (the paper, d2l)
    or concatenated (Marian, CTranslate2), or fairseq's, concatenated with other frequencies (M2M100); "learned" takes
    it from the checkpoint; "relative" adds T5's bucketed bias to self-attention instead. ``position_offset`` is the
    table row of the first token. ``decoder_mixing`` "retention" puts multi-scale retention in the place of the
    decoder's self-attention; ``retention_value_size`` is then the size of a head's values, None for the paper's
    ``2 * head_size``.
    """

    source_vocab_size: int
    target_vocab_size: int
    width: int
    heads: int
    head_size: int
    ffn_width: int
    encoder_layers: int
    decoder_layers: int
    max_source_length: int
    max_target_length: int

    pad_id: int
    eos_id: int
    decoder_start_id: int

    norm: Norm = "layer"
    norm_position: NormPosition = "post"
    norm_epsilon: float = 1e-5
    final_norm: bool = False
    embedding_norm: bool = False
    embedding_scale: float = 1.0

    positions: Positions = "sinusoidal"
    sinusoid_order: SinusoidOrder = "interleaved"
    position_offset: int = 0
    relative_buckets: int = 32
    relative_max_distance: int = 128

    decoder_mixing: DecoderMixing = "attention"
    retention_value_size: int | None = None

    attention_bias: bool = True
    attention_scale: float | None = None
    activation: Activation = "relu"
    gated_ffn: bool = False
    ffn_bias: bool = True

    shared_embeddings: bool = False
    tied_output: bool = False
    output_bias: bool = False
    output_scale: float = 1.0

    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check every field on its own and against the others.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        check_fields(self, CHOICES, LIMITS)
        if self.position_offset < 0:
            raise ConfigError(f"position_offset: {self.position_offset} is negative")
        self._check_positions()
        self._check_retention()
        check_vocabularies(self)

    def _check_retention(self) -> None:
        """What retention asks of the other fields."""
        if self.retention_value_size is not None and not 1 <= self.retention_value_size <= LIMITS["head_size"]:
            raise ConfigError(
                f"retention_value_size: {self.retention_value_size} is not between 1 and {LIMITS['head_size']}"
            )
        if self.decoder_mixing != "retention":
            if self.retention_value_size is not None:
                raise ConfigError('retention_value_size: needs decoder_mixing "retention"')
            return
        if self.head_size % 2:
            raise ConfigError(f"head_size: {self.head_size} is odd; retention rotates pairs of components")
        if self.positions == "relative":
            raise ConfigError('positions: retention has no scores that "relative" could be added to')
        if self.max_target_length * max(self.head_size, self.heads) > MAX_TABLE:
            raise ConfigError(
                f"max_target_length {self.max_target_length}: a table of so many rotations of {self.head_size} "
                f"components and {self.heads} decays has more than {MAX_TABLE} values"
            )

    def _check_positions(self) -> None:
        """Whether the table or the buckets of positions can be computed, and with how much memory."""
        if self.positions == "relative":
            # Half of the decoder's buckets are single distances, the others share the logarithm of what is left.
            if self.relative_buckets < 4:
                raise ConfigError(f"relative_buckets: {self.relative_buckets} must be at least 4")
            if self.relative_max_distance <= self.relative_buckets // 2:
                raise ConfigError(
                    f"relative_max_distance: {self.relative_max_distance} is not above half of the "
                    f"{self.relative_buckets} relative_buckets"
                )
        if self.positions == "sinusoidal" and self.sinusoid_order == "fairseq" and self.width < 4:
            raise ConfigError(f"width: {self.width} is below 4, from where on fairseq's sinusoids are defined")
        rows = max(self.max_source_length, self.max_target_length) + self.position_offset
        if self.positions == "sinusoidal" and rows * self.width > MAX_TABLE:
            raise ConfigError(
                f"width {self.width}: a table of {rows} sinusoidal positions has more than {MAX_TABLE} values"
            )

    @property
    def score_scale(self) -> float:
        """What queries are multiplied by before the softmax: 1 / sqrt(head_size) unless the family fixes another."""
        return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def value_size(self) -> int:
        """Size of a head's values in retention: the paper's twice the size of its keys unless the family differs."""
        return 2 * self.head_size if self.retention_value_size is None else self.retention_value_size
