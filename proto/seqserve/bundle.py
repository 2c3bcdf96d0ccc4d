"""The bundle format: what an exported model directory holds. ``export`` writes it, ``serve`` reads it.

A bundle is a directory with ``encoder.onnx``, ``decoder.onnx`` (weights beside them where large), ``model.json``
(:class:`ModelDescription`), optionally ``tokenizer/``, ``parity.json`` and ``manifest.json``.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
MODEL_FILE = "model.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
TOKENIZER_FILE = "tokenizer/tokenizer.json"
PARITY_FILE = "parity.json"

PRECISIONS = ("fp32", "fp16", "int8")
SCOPES = ("row", "request")
LENGTHS = ("source", "target", "fixed")
UPDATES = ("append", "replace", "constant")
DTYPES = ("float32", "float16")
LENGTH_AXIS = "length"


class BundleError(Exception):
    """A bundle that cannot be used; the message says which file or field and why, in one line."""


@dataclass(frozen=True)
class StateTensor:
    """One kind of tensor that a row or a request holds while it is decoded, repeated ``count`` times (per layer).

    The step graph has inputs ``name.0`` .. ``name.{count-1}`` of shape [rows, *shape] and, unless the update is
    "constant", outputs ``name.i.next``.

    Attributes:
        shape: Per row: integers, and at most one "length", the axis along which it grows.
        dtype: "float32" or "float16".
        scope: "row" (one per hypothesis) or "request" (one per source, shared by its rows).
        length: What the length axis counts: "source" or "target" tokens; "fixed" when there is no such axis.
        update: "append" (a step writes its own position, in place), "replace" (a step writes all of it, into a second
            buffer), "constant" (written by the encoder, only read by steps).
    """

    name: str
    count: int
    shape: tuple[int | str, ...]
    dtype: str
    scope: str
    length: str
    update: str

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("scope", self.scope, SCOPES), ("length", self.length, LENGTHS),
            ("update", self.update, UPDATES), ("dtype", self.dtype, DTYPES),
        ):
            if value not in allowed:
                raise BundleError(f"state {self.name!r}: {name} {value!r} is not one of {', '.join(allowed)}")
        growing = [size for size in self.shape if not isinstance(size, int)]
        if growing != ([] if self.length == "fixed" else [LENGTH_AXIS]):
            raise BundleError(f"state {self.name!r}: shape {list(self.shape)} does not fit length {self.length!r}")
        if self.count < 1 or any(isinstance(size, int) and size < 1 for size in self.shape):
            raise BundleError(f"state {self.name!r}: count and sizes must be positive")

    @property
    def length_axis(self) -> int | None:
        """Index of the growing axis within ``shape``, or None."""
        return self.shape.index(LENGTH_AXIS) if self.length != "fixed" else None

    @property
    def unit_bytes(self) -> int:
        """Bytes of all ``count`` tensors of one row, per position of the length axis (or in all, when fixed)."""
        item = 4 if self.dtype == "float32" else 2
        copies = 2 if self.update == "replace" else 1
        return item * copies * self.count * math.prod(size for size in self.shape if isinstance(size, int))


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """``model.json``: everything the server knows about a model besides its graphs and its tokenizer.

    Lengths count tokens, special tokens included. ``source_prefix`` and ``source_suffix`` are the ids that the family
    puts around the content of a source.
    """

    name: str
    family: str
    precision: str
    source_vocab_size: int
    target_vocab_size: int
    max_source_length: int
    max_target_length: int
    source_prefix: tuple[int, ...]
    source_suffix: tuple[int, ...]
    decoder_start_id: int
    eos_id: int
    pad_id: int
    unk_id: int | None
    states: tuple[StateTensor, ...]
    default_max_new_tokens: int
    default_min_new_tokens: int = 0
    dimensions: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise BundleError(f"{MODEL_FILE}: format {self.format} is not {FORMAT}; export the model again")
        if self.precision not in PRECISIONS:
            raise BundleError(f"{MODEL_FILE}: precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if not 1 <= self.default_max_new_tokens <= self.max_target_length:
            raise BundleError(
                f"{MODEL_FILE}: default_max_new_tokens {self.default_max_new_tokens} is outside "
                f"1..{self.max_target_length} (max_target_length)"
            )
        if not self.states:
            raise BundleError(f"{MODEL_FILE}: states: a decoder without state cannot be served")

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelDescription":
        """Parse the file's text.

        Raises:
            BundleError: naming unknown, missing or ill-typed fields.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MODEL_FILE}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise BundleError(f"{MODEL_FILE}: not a JSON object")
        known = {entry.name: entry for entry in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise BundleError(f"{MODEL_FILE}: unknown fields: {', '.join(unknown)}")
        required = {
            name for name, entry in known.items()
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        }
        if missing := sorted(required - set(values)):
            raise BundleError(f"{MODEL_FILE}: missing fields: {', '.join(missing)}")
        try:
            states = tuple(StateTensor(**{**entry, "shape": tuple(entry["shape"])}) for entry in values["states"])
            tuples = {name: tuple(int(item) for item in values[name]) for name in ("source_prefix", "source_suffix")}
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"{MODEL_FILE}: states or source ids are malformed: {error}") from None
        model = cls(**{**values, **tuples, "states": states})
        _check_types(model)
        return model


def _check_types(model: ModelDescription) -> None:
    """Integers must be integers: JSON would happily carry "512" or 1.5."""
    for entry in dataclasses.fields(model):
        value = getattr(model, entry.name)
        if entry.type in (int, "int") and (isinstance(value, bool) or not isinstance(value, int)):
            raise BundleError(f"{MODEL_FILE}: {entry.name}: {value!r} is not an integer")
        if entry.type in (str, "str") and not isinstance(value, str):
            raise BundleError(f"{MODEL_FILE}: {entry.name}: {value!r} is not a string")


def read_model(directory: Path) -> ModelDescription:
    """Read ``model.json`` of a bundle whose manifest was checked before."""
    try:
        text = (directory / MODEL_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{MODEL_FILE}: cannot be read: {error}") from None
    return ModelDescription.from_json(text)
