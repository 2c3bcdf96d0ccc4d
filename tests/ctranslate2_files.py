"""Writing CTranslate2 directories without CTranslate2: any version of the file, and a small random model."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
SPECIALS = ("<unk>", "<s>", "</s>")
CONFIG = {
    "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "decoder_start_token": "<s>",
    "add_source_bos": False, "add_source_eos": False, "layer_norm_epsilon": None,
}
Variables = dict[str, NDArray[Any]]


def serialize(
    variables: Mapping[str, NDArray[Any]], *, aliases: Mapping[str, str] | None = None, version: int = 6,
    spec: str = "TransformerSpec", revision: int = 7, bfloat16: Sequence[str] = (),
) -> bytes:
    """The bytes of a model.bin. ``bfloat16`` names variables of uint16 that hold such values."""
    parts = [struct.pack("<I", version), _string(spec), struct.pack("<II", revision, len(variables))]
    for name, value in variables.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        if version < 4:
            size = struct.pack("<BI", value.itemsize, value.size)
        else:
            kind = "bfloat16" if name in bfloat16 else value.dtype.name
            size = struct.pack("<BI", TYPES.index(kind), value.nbytes)
        parts += [_string(name), shape, size, value.tobytes()]
    if version >= 3:
        parts.append(struct.pack("<I", len(aliases or {})))
        parts += [_string(text) for pair in (aliases or {}).items() for text in pair]
    return b"".join(parts)


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"


def tokens(count: int, prefix: str = "t") -> list[str]:
    return [*SPECIALS, *(f"{prefix}{index}" for index in range(count - len(SPECIALS)))]


def tiny_variables(
    *, source: int = 21, target: int = 23, width: int = 16, heads: int = 2, inner: int = 24, layers: int = 1
) -> Variables:
    """A pre-norm model as CTranslate2 stores it, every weight random: norms and biases too."""
    random = np.random.default_rng(0)
    variables: Variables = {}

    def linear(scope: str, rows: int, columns: int) -> None:
        # Sharp attention and a weak feed-forward part: otherwise a random model repeats one token for ever.
        values = random.normal(0, (0.4 if "/ffn/" in scope else 1.0) / math.sqrt(columns), (rows, columns))
        if scope.endswith("attention/linear_0"):
            values[:width] *= 3
        variables[f"{scope}/weight"] = values.astype(np.float32)
        variables[f"{scope}/bias"] = random.normal(0, 0.1, rows).astype(np.float32)

    def norm(scope: str) -> None:
        variables[f"{scope}/gamma"] = random.normal(1, 0.2, width).astype(np.float32)
        variables[f"{scope}/beta"] = random.normal(0, 0.1, width).astype(np.float32)

    for side, size in (("encoder", source), ("decoder", target)):
        embeddings = "embeddings_0" if side == "encoder" else "embeddings"
        variables |= {
            f"{side}/{embeddings}/weight": random.normal(0, 1, (size, width)).astype(np.float32),
            f"{side}/num_heads": np.array(heads, np.int16), f"{side}/pre_norm": np.array(1, np.int8),
            f"{side}/activation": np.array(0, np.int8), f"{side}/scale_embeddings": np.array(1, np.int8),
        }
        norm(f"{side}/layer_norm")
        for index in range(layers):
            scope = f"{side}/layer_{index}"
            shapes = {"self_attention": (3 * width, width)} | (
                {"attention": (width, 2 * width, width)} if side == "decoder" else {}
            )
            for name, rows in shapes.items():
                norm(f"{scope}/{name}/layer_norm")
                for number, count in enumerate(rows):
                    linear(f"{scope}/{name}/linear_{number}", count, width)
            norm(f"{scope}/ffn/layer_norm")
            linear(f"{scope}/ffn/linear_0", inner, width)
            linear(f"{scope}/ffn/linear_1", width, inner)
    linear("decoder/projection", target, width)
    return variables


def quantized(values: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 by row, and the scales: what 127 stands for is the row's largest."""
    scale = (127.0 / np.abs(values).max(axis=1)).astype(np.float32)
    return np.rint(values * scale[:, None]).astype(np.int8), scale


def write_directory(
    directory: Path, variables: Variables | None = None, *, config: Mapping[str, Any] | None = None, **header: Any
) -> Variables:
    """A CTranslate2 directory around variables, or around a tiny model; vocabularies as long as its embeddings."""
    directory.mkdir(parents=True, exist_ok=True)
    variables = tiny_variables() if variables is None else variables
    (directory / "model.bin").write_bytes(serialize(variables, **header))
    (directory / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    for side, name in (("source", "encoder/embeddings_0/weight"), ("target", "decoder/embeddings/weight")):
        if name in variables:
            (directory / f"{side}_vocabulary.json").write_text(json.dumps(tokens(len(variables[name]), side[0])))
    return variables
