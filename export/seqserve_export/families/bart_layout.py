"""The layout that BART gave to its relatives: names of tensors and settings, and what each class of them differs in.

BART, mBART, Pegasus, M2M100 (NLLB among it) and Marian name their tensors alike in transformers. A ``Layout`` says the
rest: where norms stand, where positions come from, and what config.json leaves unsaid.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqserve_export.errors import ExportError
from seqserve_export.families.files import CONFIG_FILE
from seqserve_export.families.generation import Generation
from seqserve_export.families.settings import FLAG, NAMES, TEXT, TOKEN_ID, integer
from seqserve_export.model import TransformerConfig
from seqserve_export.model.config import Activation, NormPosition, Positions, SinusoidOrder

ACTIVATIONS: dict[str, Activation] = {
    "swish": "silu", "silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh",
}

SIZE = integer(1)
SETTINGS = {
    **dict.fromkeys(("d_model", "vocab_size", "max_position_embeddings"), SIZE),
    **{f"{side}_{name}": SIZE for side in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")},
    **dict.fromkeys((
        "scale_embedding", "tie_word_embeddings", "share_encoder_decoder_embeddings", "normalize_embedding",
    ), FLAG),
    "bos_token_id": TOKEN_ID.or_null(), "decoder_vocab_size": SIZE.or_null(),
    "activation_function": TEXT, "architectures": NAMES.or_null(),
}

SHARED, HEAD, BIAS = "model.shared.weight", "lm_head.weight", "final_logits_bias"
SOURCE, TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
POSITIONS = {side: f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}

ATTENTION = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj"))
ENCODER_PARTS = {"attention": "self_attn"}
DECODER_PARTS = {"attention": "self_attn", "cross": "encoder_attn"}
NORMS = {"attention_norm": "self_attn_layer_norm", "cross_norm": "encoder_attn_layer_norm"}
FFN = (("ffn.inner", "fc1"), ("ffn.outer", "fc2"), ("ffn_norm.norm", "final_layer_norm"))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One class of transformers.

    Attributes:
        family: The value of ``--family``.
        model_type: What config.json calls the class.
        source_class: The class with an output; ``base_class`` is the same without one, whose output is the embedding.
        embedding_norm: Whether embeddings are normalised (``layernorm_embedding``); None: ``normalize_embedding`` says.
        final_norm: Whether both stacks end in a norm (``layer_norm``).
        position_offset: The table row of the first token; None for the row after the padding token's.
        logits_bias: Whether the class adds ``final_logits_bias`` to its logits.
        separable: Whether ``share_encoder_decoder_embeddings`` can make two vocabularies.
        defaults: What the class takes for keys that config.json lacks.
        fixed: Switches that conversions carry and transformers does not read; another value is another architecture.
    """

    family: str
    model_type: str
    source_class: str
    base_class: str
    norm_position: NormPosition
    embedding_norm: bool | None
    final_norm: bool
    positions: Positions
    sinusoid_order: SinusoidOrder = "concatenated"
    position_offset: int | None = 0
    logits_bias: bool = True
    separable: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def check_class(self, values: Mapping[str, Any]) -> None:
        """Refuse a config.json of another class.

        Raises:
            ExportError: naming the class and those that are supported.
        """
        if values.get("model_type", self.model_type) != self.model_type:
            raise ExportError(
                f"{CONFIG_FILE}: model_type {values['model_type']!r:.80} is not {self.model_type!r}, "
                f"which the family {self.family} is for"
            )
        classes = values.get("architectures") or [self.source_class]
        if not {self.source_class, self.base_class} & {*classes}:
            raise ExportError(
                f"{CONFIG_FILE}: architecture {', '.join(classes):.200} is not supported; supported: "
                f"{self.source_class}, {self.base_class}"
            )


def read_config(values: Mapping[str, Any], layout: Layout, generation: Generation) -> TransformerConfig:
    """Canonical configuration from config.json with the class's defaults filled in, its values checked by ``SETTINGS``.

    Raises:
        ExportError: for what the canonical model does not have, by its name in the file.
        KeyError: for a key that the file lacks.
    """
    layout.check_class(values)
    for name, only in layout.fixed.items():
        if values.get(name, only) != only:
            raise ExportError(f"{CONFIG_FILE}: {name} {values[name]!r:.80} is not supported; only {only!r} is")
    for name in ("attention_heads", "ffn_dim"):
        if values[f"encoder_{name}"] != values[f"decoder_{name}"]:
            raise ExportError(f"{CONFIG_FILE}: encoder_{name} and decoder_{name} differ, which is not supported")
    activation = values.get("activation_function", "gelu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ExportError(f"{CONFIG_FILE}: activation_function {activation!r:.80} is not one of {known}")
    width, heads = values["d_model"], values["encoder_attention_heads"]
    if width % heads:
        raise ExportError(f"{CONFIG_FILE}: d_model {width} is not a multiple of encoder_attention_heads {heads}")
    shared = values.get("share_encoder_decoder_embeddings", True) if layout.separable else True
    tied = values.get("tie_word_embeddings", True)
    vocabulary = values["vocab_size"]
    target = vocabulary if shared else values.get("decoder_vocab_size") or vocabulary
    length = values["max_position_embeddings"]
    offset = generation.pad_id + 1 if layout.position_offset is None else layout.position_offset
    embedding_norm = layout.embedding_norm
    if embedding_norm is None:
        embedding_norm = values.get("normalize_embedding", False)
    return TransformerConfig(
        source_vocab_size=vocabulary, target_vocab_size=target,
        width=width, heads=heads, head_size=width // heads, ffn_width=values["encoder_ffn_dim"],
        encoder_layers=values["encoder_layers"], decoder_layers=values["decoder_layers"],
        max_source_length=length, max_target_length=length,
        pad_id=generation.pad_id, eos_id=generation.eos_id, decoder_start_id=generation.decoder_start_id,
        norm_position=layout.norm_position, final_norm=layout.final_norm, embedding_norm=embedding_norm,
        embedding_scale=math.sqrt(width) if values.get("scale_embedding", False) else 1.0,
        positions=layout.positions, sinusoid_order=layout.sinusoid_order, position_offset=offset,
        activation=ACTIVATIONS[activation],
        # Without tying, transformers keeps separate tables even where the configuration says they are shared.
        shared_embeddings=shared and tied, tied_output=tied,
        output_bias=layout.logits_bias or bool(generation.suppressed),
        dropout=0.0,
    )


def tensor_names(config: TransformerConfig) -> dict[str, str]:
    """The file's name of every parameter of the canonical model, shared tensors once."""
    names = {"source_embedding.tokens.weight": SHARED if config.shared_embeddings else SOURCE}
    if config.output_bias:
        names["output_bias"] = BIAS
    if not config.shared_embeddings:
        names["target_embedding.tokens.weight"] = TARGET
    if not config.tied_output:
        names["output.weight"] = HEAD
    pairs = []
    for side, embedding, layers, attentions in (
        ("encoder", "source_embedding", config.encoder_layers, ENCODER_PARTS),
        ("decoder", "target_embedding", config.decoder_layers, DECODER_PARTS),
    ):
        if config.positions == "learned":
            names[f"{embedding}.positions"] = POSITIONS[side]
        if config.embedding_norm:
            pairs.append((f"{embedding}.norm", f"model.{side}.layernorm_embedding"))
        if config.final_norm:
            pairs.append((f"{side}_norm", f"model.{side}.layer_norm"))
        for index in range(layers):
            ours, theirs = f"{side}.{index}", f"model.{side}.layers.{index}"
            for part, name in attentions.items():
                pairs += [(f"{ours}.{part}.{a}", f"{theirs}.{name}.{b}") for a, b in ATTENTION]
                pairs.append((f"{ours}.{part}_norm.norm", f"{theirs}.{NORMS[f'{part}_norm']}"))
            pairs += [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in FFN]
    for ours, theirs in pairs:
        names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names
