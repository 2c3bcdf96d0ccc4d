"""The weights of a CTranslate2 Transformer onto the canonical model: fused projections, ties, positions."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families.ctranslate2_file import ModelFile
from seqserve_export.families.ctranslate2_spec import SIDES, Attributes, is_attribute
from seqserve_export.families.weights import SUPPRESSED, equal
from seqserve_export.model.config import Norm

IMPLIED_POSITIONS = 1024  # as many as CTranslate2's default of max_input_length lets through
ENCODINGS = "{}/position_encodings/encodings"
BIAS_TABLE = "{}/layer_{}/self_attention/relative_attention_bias"
PROJECTION = "decoder/projection/weight"
EMBEDDINGS = {"encoder": "encoder/embeddings_0/weight", "decoder": "decoder/embeddings/weight"}
ATTENTIONS = {
    "encoder": (("attention", "self_attention"),), "decoder": (("attention", "self_attention"), ("cross", "attention")),
}
PARTS = ("query", "key", "value", "output")
# Which projections share one matrix, by what the layer is and how many matrices it has.
FUSED = {
    ("self_attention", 2): (PARTS[:3], PARTS[3:]), ("attention", 3): (PARTS[:1], PARTS[1:3], PARTS[3:]),
    ("self_attention", 4): tuple((part,) for part in PARTS), ("attention", 4): tuple((part,) for part in PARTS),
}
NORM = (("weight", "gamma"), ("bias", "beta"))


@dataclass
class Weights:
    """float32 tensors by the file's names, or by names made from these for parts of one; ``names`` leads there.

    Attributes:
        names: the name among ``tensors`` of every canonical parameter.
        choices: fields of the configuration that the weights decide.
    """

    file: ModelFile
    tensors: dict[str, Tensor]
    names: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)

    def matrix(self, name: str) -> Tensor:
        """A tensor that has to be there and have two axes."""
        if name not in self.tensors:
            raise ExportError(f"{self.file.path}: no variable {name}")
        tensor = self.tensors[name]
        if tensor.ndim != 2 or 0 in tensor.shape:
            raise ExportError(f"{self.file.path}: {name} has shape {list(tensor.shape)}, not that of a matrix")
        return tensor

    def layers(self, side: str) -> int:
        """How many layers a side has, counted without a gap as CTranslate2 does; at least one."""
        found = {int(match[1]) for name in self.tensors if (match := re.match(rf"{side}/layer_(\d+)/", name))}
        return next(index for index in range(len(found) + 1) if index not in found) or 1

    def any(self, pattern: str) -> bool:
        """Whether a tensor's name matches all of ``pattern``."""
        return any(re.fullmatch(pattern, name) for name in self.tensors)


def read_weights(file: ModelFile, attributes: Attributes) -> Weights:
    """Every variable that is a weight as float32, arranged for the canonical model.

    Raises:
        ExportError: a variable missing or of another shape than the others make it.
    """
    seen: dict[int, Tensor] = {}  # aliases stay one tensor
    tensors = {}
    for name, variable in file.variables.items():
        if is_attribute(name) or name.endswith("weight_scale"):
            continue
        if "int" in variable.type and not name.endswith("weight"):
            raise ExportError(f"{file.path}: variable {name} not known to this architecture")
        if id(variable) not in seen:
            seen[id(variable)] = file.tensor(name)
        tensors[name] = seen[id(variable)]
    weights = Weights(file, tensors)
    if "encoder/embeddings/weight" in tensors:  # of one source without factors, in older files
        tensors[EMBEDDINGS["encoder"]] = tensors.pop("encoder/embeddings/weight")
    weights.choices |= {
        "attention_bias": weights.any(r".*/(self_)?attention/linear_\d/bias"),
        "ffn_bias": weights.any(r".*/ffn/linear_\d(_noact)?/bias"),
        "gated_ffn": weights.any(r".*/ffn/linear_0_noact/weight"),
    }
    _take_vocabularies(weights, attributes)
    for side in SIDES:
        for index in range(weights.layers(side)):
            _take_layer(weights, side, index)
    _take_norms(weights)
    _take_positions(weights)
    return weights


def _take_vocabularies(weights: Weights, attributes: Attributes) -> None:
    """Embeddings and output: which are one, and a row of zeros where decoding starts from no token."""
    source, target = (weights.matrix(EMBEDDINGS[side]) for side in SIDES)
    output = weights.matrix(PROJECTION)
    shared, tied = equal(source, target), equal(target, output)
    bias = weights.tensors.get("decoder/projection/bias")
    if attributes.starts_from_zero:
        # The canonical model starts from a token. One whose embedding is zero, and which is never chosen, is the same.
        zero = target.new_zeros(1, target.shape[1])
        bias = output.new_zeros(output.shape[0]) if bias is None else bias
        bias = torch.cat([bias, bias.new_tensor([SUPPRESSED])])
        target, output = torch.cat([target, zero]), torch.cat([output, zero])
        source = target if shared else source
    weights.tensors |= {EMBEDDINGS["encoder"]: source, EMBEDDINGS["decoder"]: target, PROJECTION: output}
    weights.names["source_embedding.tokens.weight"] = EMBEDDINGS["encoder"]
    if shared:
        del weights.tensors[EMBEDDINGS["decoder"]]
    else:
        weights.names["target_embedding.tokens.weight"] = EMBEDDINGS["decoder"]
    if tied:
        del weights.tensors[PROJECTION]
    else:
        weights.names["output.weight"] = PROJECTION
    if bias is not None:
        weights.tensors["decoder/projection/bias"] = bias
        weights.names["output_bias"] = "decoder/projection/bias"
    weights.choices |= {
        "source_vocab_size": source.shape[0], "target_vocab_size": target.shape[0], "width": source.shape[1],
        "shared_embeddings": shared, "tied_output": tied, "output_bias": bias is not None,
    }


def _take_layer(weights: Weights, side: str, index: int) -> None:
    ours, theirs, names = f"{side}.{index}", f"{side}/layer_{index}", weights.names
    attention_bias, ffn_bias = weights.choices["attention_bias"], weights.choices["ffn_bias"]
    for part, name in ATTENTIONS[side]:
        _split(weights, f"{theirs}/{name}", attention_bias)
        for piece in PARTS:
            names |= {f"{ours}.{part}.{piece}.{kind}": f"{theirs}/{name}/{kind} ({piece})" for kind in
                      ("weight", "bias")[: 1 + attention_bias]}
        names |= {f"{ours}.{part}_norm.norm.{a}": f"{theirs}/{name}/layer_norm/{b}" for a, b in NORM}
    # The activated projection is the gate; without one it is the only inner projection.
    gate = [("gate", "linear_0"), ("inner", "linear_0_noact")]
    linears = gate if weights.choices["gated_ffn"] else [("inner", "linear_0")]
    for a, b in [*linears, ("outer", "linear_1")]:
        names[f"{ours}.ffn.{a}.weight"] = f"{theirs}/ffn/{b}/weight"
        if ffn_bias:
            _fill_bias(weights, f"{theirs}/ffn/{b}")
            names[f"{ours}.ffn.{a}.bias"] = f"{theirs}/ffn/{b}/bias"
    names |= {f"{ours}.ffn_norm.norm.{a}": f"{theirs}/ffn/layer_norm/{b}" for a, b in NORM}


def _split(weights: Weights, scope: str, biased: bool) -> None:
    """The matrices of one attention layer as four, named ``scope/weight (query)`` and so on."""
    count = sum(weights.any(rf"{scope}/linear_{index}/weight") for index in range(5))
    groups = FUSED.get((scope.rsplit("/", 1)[1], count))
    if groups is None:
        known = " or ".join(str(number) for kind, number in FUSED if kind == scope.rsplit("/", 1)[1])
        raise ExportError(
            f"{weights.file.path}: {scope}: {known} variables linear_*/weight expected, {count} are there"
        )
    for index, parts in enumerate(groups):
        linear = f"{scope}/linear_{index}"
        rows = weights.matrix(f"{linear}/weight").shape[0]
        if rows % len(parts):
            raise ExportError(f"{weights.file.path}: {linear}/weight: {rows} rows are not {len(parts)} projections")
        if biased:
            _fill_bias(weights, linear)
        for kind in ("weight", "bias")[: 1 + biased]:
            pieces = weights.tensors.pop(f"{linear}/{kind}").chunk(len(parts))
            if len(pieces) != len(parts):
                raise ExportError(f"{weights.file.path}: {linear}/{kind} does not fit {rows} rows of weights")
            weights.tensors |= {f"{scope}/{kind} ({part})": piece for part, piece in zip(parts, pieces, strict=True)}


def _fill_bias(weights: Weights, linear: str) -> None:
    """Zeros where others of its kind have a bias and this one has none."""
    if f"{linear}/bias" not in weights.tensors and f"{linear}/weight" in weights.tensors:
        weights.tensors[f"{linear}/bias"] = torch.zeros(weights.matrix(f"{linear}/weight").shape[0])


def _take_norms(weights: Weights) -> None:
    """The kind of norm, and those outside of layers, which are on both sides or on neither."""
    kind: Norm = "layer" if weights.any(r".*/beta") else "rms"
    for choice, name, ours in (
        ("final_norm", "layer_norm", ("encoder_norm", "decoder_norm")),
        ("embedding_norm", "layernorm_embedding", ("source_embedding.norm", "target_embedding.norm")),
    ):
        weights.choices[choice] = any(f"{side}/{name}/gamma" in weights.tensors for side in SIDES)
        if weights.choices[choice]:
            weights.names |= {
                f"{norm}.{a}": f"{side}/{name}/{b}" for norm, side in zip(ours, SIDES, strict=True) for a, b in NORM
            }
    if kind == "rms":  # no norm has a beta, and none is to be missed
        weights.names = {a: b for a, b in weights.names.items() if not b.endswith("/beta")}
    weights.choices["norm"] = kind


def _take_positions(weights: Weights) -> None:
    """T5's table of each side, or rows of positions: stored ones, else those that CTranslate2 computes."""
    if weights.any(r".*/relative_attention_bias"):
        _take_relative(weights)
        return
    for side, ours, limit in zip(
        SIDES, ("source_embedding", "target_embedding"), ("max_source_length", "max_target_length"), strict=True
    ):
        name = ENCODINGS.format(side)
        if name not in weights.tensors:
            weights.tensors[name] = torch.empty((IMPLIED_POSITIONS, weights.choices["width"]), device="meta")
        weights.names[f"{ours}.positions"] = name
        weights.choices[limit] = weights.matrix(name).shape[0]
    weights.choices["positions"] = "learned"


def compute_positions(weights: Weights) -> None:
    """Put in the positions that are not stored; until here they were only a shape."""
    for name, tensor in weights.tensors.items():
        if tensor.is_meta:
            weights.tensors[name] = implied_positions(tensor.shape[0], tensor.shape[1], weights.file)


def implied_positions(length: int, width: int, file: ModelFile) -> Tensor:
    """CTranslate2's own sinusoids [length, width]: sines, then cosines, of ``(p + 1) / 10000^(i / (width / 2 - 1))``.

    As in Tensor2Tensor, and unlike the paper's in the first position and in the exponent. In float32 throughout, as
    CTranslate2 computes them: late positions would differ otherwise.
    """
    half = width // 2
    if width % 2 or half < 2:
        raise ExportError(f"{file.path}: width {width}: positions are computed for even widths of at least 4")
    step = np.float32(np.log(np.float32(10000)) / np.float32(half - 1))
    rates = np.exp(-step * np.arange(half, dtype=np.float32))
    angles = np.arange(1, length + 1, dtype=np.float32)[:, None] * rates
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))


def _take_relative(weights: Weights) -> None:
    """One table of each side, which every layer has to repeat, and how far it reaches."""
    reaches = set()
    for side in SIDES:
        names = [BIAS_TABLE.format(side, index) for index in range(weights.layers(side))]
        first = weights.matrix(names[0])
        for name in names[1:]:
            if name in weights.tensors and not equal(weights.tensors[name], first):
                raise ExportError(
                    f"{weights.file.path}: not supported: a table of relative positions of its own in every layer "
                    f"({name} differs from {names[0]})"
                )
            weights.tensors.pop(name, None)
        reaches.add(weights.file.number(f"{names[0].rsplit('/', 1)[0]}/relative_attention_max_distance"))
        weights.names[f"{side}_bias.weight"] = names[0]
        weights.choices["relative_buckets"] = first.shape[0]
    if len(reaches) > 1 or None in reaches:
        raise ExportError(f"{weights.file.path}: relative_attention_max_distance: not one value for both sides")
    (reach,) = (int(value) for value in reaches if value is not None)
    # There is no table of positions to end; the limits are the server's.
    weights.choices |= {
        "positions": "relative", "relative_max_distance": reach,
        "max_source_length": IMPLIED_POSITIONS, "max_target_length": IMPLIED_POSITIONS,
    }
