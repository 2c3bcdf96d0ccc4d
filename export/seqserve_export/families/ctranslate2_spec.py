"""What a CTranslate2 Transformer is made of: the attributes in ``model.bin``, and what of them has no counterpart."""

import re
from dataclasses import dataclass

from seqserve_export.errors import ExportError
from seqserve_export.families.ctranslate2_file import ModelFile, Variable
from seqserve_export.model.config import Activation

# Specifications with the head count of those that do not store it.
SPECS = {"": 8, "TransformerBase": 8, "TransformerBig": 16, "TransformerSpec": 8}
NEWEST_REVISION = 7
SIDES = ("encoder", "decoder")

# The numbers of CTranslate2's activations; those without a value have no counterpart.
ACTIVATIONS: dict[int, tuple[str, Activation | None]] = {
    0: ("relu", "relu"), 1: ("gelu (tanh)", "gelu_tanh"), 2: ("swish", "silu"), 3: ("gelu", "gelu"),
    4: ("gelu (sigmoid)", None), 5: ("tanh", None), 6: ("sigmoid", None),
}

# Before revision 5 both sides had these attributes together, at the top.
SHARED_ATTRIBUTES = ("num_heads", "pre_norm", "activation", "embeddings_merge", "alignment_layer", "alignment_heads")
# Of the first revision, in order: what names of OpenNMT-tf became.
FIRST_NAMES = (
    ("transformer/", ""), (":0", ""), ("w_embs", "embeddings/weight"), ("kernel", "weight"),
    ("LayerNorm", "layer_norm"), ("dense", "projection"), ("conv1d_", "linear_"), ("conv1d", "linear_0"),
)

# Attributes, and scalars of layers, that say nothing about the weights or are read where they are needed.
KNOWN_ATTRIBUTES = re.compile(
    r"((encoder|decoder)/)?(num_heads|pre_norm|activation|embeddings_merge|alignment_layer|alignment_heads"
    r"|layernorm_embedding|with_relative_position|scale_embeddings|scale_outputs|start_from_zero_embedding"
    r"|embeddings(_0)?/multiply_by_sqrt_depth"
    r"|with_source_bos|with_source_eos|with_target_bos|user_decoder_start_tokens|unk_token|bos_token|eos_token)"
    r"|.*/(queries_scale|head_dim|num_heads_kv|relative_attention_max_distance)"
)
# Features by the variables that bring them. A flag counts where it is not zero.
FLAGS = {
    r"(encoder|decoder)/alibi": "ALiBi positions",
    r"(encoder|decoder)/(alibi_use_positive_positions|scale_alibi)": "",  # mean nothing without ALiBi
    r".*/(multi_query|multi_query_attention)": "multi-query attention",
    r".*/sliding_window": "a sliding attention window",
    r".*/layer_norm_use_residual": "norms with weights around zero",
    r".*/merged_encoder_attention": "merged self- and cross-attention",
}
FEATURES = {
    r".*/relative(_asymmetric)?_position_(keys|values)": "relative position representations (Shaw et al. 2018)",
    r".*/relative_(left|right)_max_position": "relative position representations (Shaw et al. 2018)",
    r".*/rotary_\w+": "rotary positions",
    r".*/[qkv]_norm/.*": "norms of queries, keys or values",
    r"decoder/project_(in|out)/.*": "projections around the decoder",
    r".*weight_zero": "weights quantised by AWQ",
    r".*/low_rank_weight_\d": "low-rank weights",
    r".*/(shared|input|post_attention|pre_feedforward|post_feedforward|external\w+)_layer_norm/.*":
        "several norms around one sub-layer",
    r"decoder/final_logit_softcapping": "soft-capped logits",
    r".*/layer_scalar": "scaled layers",
    r".*/memory_kv/.*": "merged self- and cross-attention",
    r"encoder/embeddings_[1-9]\d*/.*": "source factors",
}
SUPPORTED = (
    "pre- or post-norm layers with layer or RMS norms, absolute positions or T5's relative ones, "
    "activations relu, gelu, gelu (tanh) and swish, gated or not"
)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The attributes of both sides, where they agree.

    Attributes:
        embedding_scale: None: the root of the width.
        starts_from_zero: The first decoder position has no token embedding.
        alignment: The decoder layer (negative: from the last) and how many of its heads give the alignment (0: all).
    """

    heads: int
    pre_norm: bool
    activation: Activation
    embedding_scale: float | None
    output_scale: float
    starts_from_zero: bool
    alignment: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Special tokens of the model and where CTranslate2 puts them; ``start`` None: the caller names the first."""

    unk: str
    bos: str
    eos: str
    start: str | None
    add_source_bos: bool
    add_source_eos: bool


def current_names(file: ModelFile) -> dict[str, Variable]:
    """The variables under the names of the newest revision, as CTranslate2 renames those of older ones."""
    variables = file.variables
    if file.revision == 1:
        variables = {_first_name(name): variable for name, variable in variables.items()}
    if file.revision < 5:
        shared = {name: variables[name] for name in SHARED_ATTRIBUTES if name in variables}
        variables = variables | {f"{side}/{name}": value for side in SIDES for name, value in shared.items()}
    return variables


def _first_name(name: str) -> str:
    for old, new in FIRST_NAMES:
        name = name.replace(old, new, 1)
    if "encoder" in name:
        return name.replace("multi_head", "self_attention", 1)
    return name.replace("masked_multi_head", "self_attention", 1).replace("multi_head", "attention", 1)


def check_supported(file: ModelFile) -> None:
    """Refuse by name what the canonical model does not have.

    Raises:
        ExportError: the specification, its revision, or features.
    """
    if file.spec not in SPECS:
        raise ExportError(
            f"{file.path}: specification {file.spec!r} is not supported; supported: {', '.join(filter(None, SPECS))}"
        )
    if not 1 <= file.revision <= NEWEST_REVISION:
        raise ExportError(
            f"{file.path}: revision {file.revision} of {file.spec} is not supported; supported: 1 to {NEWEST_REVISION}"
        )
    found: dict[str, str] = {}
    for name in file.variables:
        for pattern, feature in FEATURES.items():
            if re.fullmatch(pattern, name):
                found.setdefault(feature, name)
        for pattern, feature in FLAGS.items():
            if feature and re.fullmatch(pattern, name) and _number(file, name):
                found.setdefault(feature, name)
    if found:
        features = ", ".join(f"{feature} ({name})" for feature, name in found.items())
        raise ExportError(f"{file.path}: not supported: {features}; supported: {SUPPORTED}")


def is_attribute(name: str) -> bool:
    """Whether a variable is no weight but a setting that is read, or means nothing."""
    return KNOWN_ATTRIBUTES.fullmatch(name) is not None or any(re.fullmatch(flag, name) for flag in FLAGS)


def read_attributes(file: ModelFile) -> Attributes:
    """The attributes of a supported file with current names.

    Raises:
        ExportError: the sides differ in what the canonical model has once, or a value is out of range.
    """
    heads = int(_same(file, "num_heads", SPECS[file.spec]))
    if heads < 1:
        raise ExportError(f"{file.path}: encoder/num_heads: {heads} is not positive")
    for name in file.variables:
        if name.endswith("/num_heads_kv") and (count := int(_number(file, name))) != heads:
            raise ExportError(f"{file.path}: not supported: {count} heads of keys and {heads} of queries ({name})")
    code = int(_same(file, "activation", 0))
    shown, activation = ACTIVATIONS.get(code, (str(code), None))
    if activation is None:
        known = ", ".join(name for name, ours in ACTIVATIONS.values() if ours is not None)
        raise ExportError(f"{file.path}: activation {shown} is not supported; supported: {known}")
    scale = _agreed(file, "scale_embeddings", [_embedding_scale(file, side) for side in SIDES])
    return Attributes(
        heads=heads,
        pre_norm=bool(_same(file, "pre_norm", 1)),
        activation=activation,
        embedding_scale=scale if scale else None,
        output_scale=_number(file, "decoder/scale_outputs", 1),
        starts_from_zero=bool(_number(file, "decoder/start_from_zero_embedding", 0)),
        alignment=(
            int(_number(file, "decoder/alignment_layer", -1)), int(_number(file, "decoder/alignment_heads", 1)),
        ),
    )


def _same(file: ModelFile, name: str, default: float) -> float:
    return _agreed(file, name, [_number(file, f"{side}/{name}", default) for side in SIDES])


def _agreed(file: ModelFile, name: str, values: list[float]) -> float:
    """One value for both sides."""
    encoder, decoder = values
    if encoder != decoder:
        raise ExportError(f"{file.path}: not supported: {name} {encoder:g} in the encoder, {decoder:g} in the decoder")
    return encoder


def _embedding_scale(file: ModelFile, side: str) -> float:
    """What embeddings are multiplied by; 0 stands for the root of the width, which is what a set flag means."""
    names = (f"{side}/scale_embeddings", f"{side}/embeddings/multiply_by_sqrt_depth",
             f"{side}/embeddings_0/multiply_by_sqrt_depth")
    name = next((name for name in names if name in file.variables), None)
    if name is None:
        return 0.0
    value = _number(file, name)
    if file.variables[name].type == "int8":
        return 0.0 if value else 1.0
    return value


def _number(file: ModelFile, name: str, default: float = 0.0) -> float:
    value = file.number(name)
    return default if value is None else value


def read_tokens(file: ModelFile) -> Tokens:
    """The tokens of a file from before version 6, which keeps them itself."""
    unk, bos, eos = (
        file.text(name) or default
        for name, default in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>"))
    )
    start: str | None = bos if _number(file, "with_target_bos", 1) else eos
    if _number(file, "user_decoder_start_tokens"):
        start = None
    return Tokens(
        unk=unk, bos=bos, eos=eos, start=start, add_source_bos=bool(_number(file, "with_source_bos")),
        add_source_eos=bool(_number(file, "with_source_eos")),
    )
