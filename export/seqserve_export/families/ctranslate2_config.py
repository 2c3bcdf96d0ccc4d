"""The canonical configuration of a CTranslate2 Transformer: its attributes and what its weights decide."""

import math
from collections.abc import Iterator

from seqserve_export.errors import ExportError
from seqserve_export.families.ctranslate2_spec import SIDES, Attributes
from seqserve_export.families.ctranslate2_weights import ATTENTIONS, Weights
from seqserve_export.model import TransformerConfig


def complete_config(
    weights: Weights, attributes: Attributes, *, pad_id: int, eos_id: int, decoder_start_id: int, epsilon: float | None
) -> TransformerConfig:
    """The canonical configuration.

    Args:
        epsilon: of the norms; None: CTranslate2's defaults, 1e-5 with a bias and 1e-6 without.

    Raises:
        ConfigError: the result contradicts itself.
    """
    choices, file = weights.choices, weights.file
    width = choices["width"]
    inner = weights.matrix("encoder/layer_0/self_attention/weight (output)").shape[1]
    if inner % attributes.heads:
        raise ExportError(f"{file.path}: {inner} columns of attention are not {attributes.heads} heads (num_heads)")
    if epsilon is None:
        epsilon = 1e-5 if choices["norm"] == "layer" else 1e-6
    scale = attributes.embedding_scale
    return TransformerConfig(
        **choices, heads=attributes.heads, head_size=inner // attributes.heads,
        ffn_width=weights.matrix("encoder/layer_0/ffn/linear_0/weight").shape[0],
        encoder_layers=weights.layers("encoder"), decoder_layers=weights.layers("decoder"),
        pad_id=pad_id, eos_id=eos_id, decoder_start_id=decoder_start_id,
        norm_position="pre" if attributes.pre_norm else "post", norm_epsilon=epsilon,
        embedding_scale=math.sqrt(width) if scale is None else scale,
        attention_scale=_attention_scale(weights, attributes), activation=attributes.activation,
        output_scale=attributes.output_scale,
    )


def _attention_scale(weights: Weights, attributes: Attributes) -> float | None:
    """What queries are multiplied by, the same in every layer; None where it is the usual."""
    scales = set()
    for scope, inner in _attentions(weights):
        head = weights.file.number(f"{scope}/head_dim") or weights.choices["width"] // attributes.heads
        if head <= 0:
            raise ExportError(f"{weights.file.path}: {scope}/head_dim: {head:g} is not positive")
        given = weights.file.number(f"{scope}/queries_scale")
        usual = (inner // attributes.heads) ** -0.5
        scale = head**-0.5 if given is None else given
        scales.add(None if math.isclose(scale, usual, rel_tol=1e-7) else scale)
    if len(scales) > 1:
        raise ExportError(f"{weights.file.path}: not supported: queries_scale that differs between layers")
    (found,) = scales
    return found


def _attentions(weights: Weights) -> Iterator[tuple[str, int]]:
    """Every attention layer's scope and the columns of its output."""
    for side in SIDES:
        for index in range(weights.layers(side)):
            for _, name in ATTENTIONS[side]:
                scope = f"{side}/layer_{index}/{name}"
                yield scope, weights.matrix(f"{scope}/weight (output)").shape[1]
