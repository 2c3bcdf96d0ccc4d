"""The bundle format: what an exported model directory holds. ``export`` writes it, ``serve`` reads it.

A bundle is a directory with ``encoder.onnx``, ``decoder.onnx``, ``scorer.onnx`` where ``model.json``
(:class:`ModelDescription`) speaks of an alignment, their weights in ``weights.data``, optionally ``tokenizer/``,
``parity.json``, ``golden.json`` (:mod:`.golden`) and ``manifest.json``.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve.alignment import Alignment
from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE, Framing, Place
from seqserve.search_defaults import SearchDefaults, SearchError

FORMAT = 3
MODEL_FILE = "model.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
SCORER_FILE = "scorer.onnx"
WEIGHTS_FILE = "weights.data"  # of all graphs
TOKENIZER_FILE = "tokenizer/tokenizer.json"  # alone, it is a Hub tokenizer for both sides
TOKENIZER_CONFIG_FILE = "tokenizer/tokenizer_config.json"  # its "kind" says which of these are there
PIECES_FILE = "tokenizer/pieces.spm"  # "sentencepiece": one model for both sides
# "marian" and, the vocabularies alone, "words": these
SOURCE_PIECES_FILE, TARGET_PIECES_FILE = "tokenizer/source.spm", "tokenizer/target.spm"
SOURCE_VOCABULARY_FILE, TARGET_VOCABULARY_FILE = "tokenizer/vocab.json", "tokenizer/target_vocab.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, PIECES_FILE, SOURCE_PIECES_FILE, TARGET_PIECES_FILE, SOURCE_VOCABULARY_FILE,
    TARGET_VOCABULARY_FILE,
)
PARITY_FILE = "parity.json"

PRECISIONS = ("fp32", "fp16", "int8")
SCOPES = ("row", "request")
LENGTHS = ("source", "target", "fixed")
UPDATES = ("append", "replace", "constant")
DTYPES = ("float32", "float16")
LENGTH_AXIS = "length"


class BundleError(Exception):
    """A bundle that cannot be used; the message says which file or field and why, in one line.

    It may carry words of a file: what breaks a line, or commands a terminal, is written as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in message
        ))


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
        sizes = [self.count, *(size for size in self.shape if isinstance(size, int))]
        if not all(_is_integer(size) and size >= 1 for size in sizes):
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

    Lengths count tokens, special tokens included. ``source_prefix`` and ``source_suffix`` are what the family puts
    around the content of a source, ``decoder_prompt`` what the decoder is fed before it chooses (:mod:`.framing`).
    ``forced_end`` makes the last token that ``max_new_tokens`` allows the end token, whatever the model would choose.
    ``search`` is how requests are decoded that do not say. ``alignment`` is what the scorer tells besides; None
    where the bundle has none.
    """

    name: str
    family: str
    precision: str
    source_vocab_size: int
    target_vocab_size: int
    max_source_length: int
    max_target_length: int
    source_prefix: tuple[Place, ...]
    source_suffix: tuple[Place, ...]
    decoder_prompt: tuple[Place, ...]
    eos_id: int
    pad_id: int
    unk_id: int | None
    states: tuple[StateTensor, ...]
    default_max_new_tokens: int
    default_min_new_tokens: int = 0
    forced_end: bool = False
    search: SearchDefaults = field(default_factory=SearchDefaults)
    alignment: Alignment | None = None
    languages: dict[str, int] = field(default_factory=dict)
    default_source_language: str | None = None
    default_target_language: str | None = None
    dimensions: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BundleError(f"{MODEL_FILE}: precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if not self.decoder_prompt:
            raise BundleError(f"{MODEL_FILE}: decoder_prompt: at least the start token is needed")
        if not 1 <= self.default_max_new_tokens <= self.max_new_tokens:
            raise BundleError(
                f"{MODEL_FILE}: default_max_new_tokens {self.default_max_new_tokens} is outside "
                f"1..{self.max_new_tokens} (max_target_length and decoder_prompt)"
            )
        if not self.states:
            raise BundleError(f"{MODEL_FILE}: states: a decoder without state cannot be served")
        for name in ("source_vocab_size", "target_vocab_size", "max_source_length"):
            if getattr(self, name) < 1:
                raise BundleError(f"{MODEL_FILE}: {name}: {getattr(self, name)} is not positive")
        if not 0 <= self.default_min_new_tokens <= self.default_max_new_tokens:
            raise BundleError(
                f"{MODEL_FILE}: default_min_new_tokens {self.default_min_new_tokens} is outside "
                f"0..{self.default_max_new_tokens} (default_max_new_tokens)"
            )
        self._check_ids()

    def _check_ids(self) -> None:
        """The server trusts these: no id from outside a vocabulary may reach the runtime."""
        source, target = self.source_vocab_size, self.target_vocab_size
        languages = tuple(self.languages.values())
        for name, places, size, word in (
            ("source_prefix", self.source_prefix, source, SOURCE_LANGUAGE),
            ("source_suffix", self.source_suffix, source, SOURCE_LANGUAGE),
            ("decoder_prompt", self.decoder_prompt, target, TARGET_LANGUAGE),
            ("eos_id", (self.eos_id,), target, ""),
            ("languages", languages, min(source, target), ""),
            ("search.suppressed", sum(self.search.suppressed, ()), target, ""),
        ):
            for place in places:
                if isinstance(place, str) and place != word:
                    raise BundleError(f"{MODEL_FILE}: {name}: {place!r} is neither an id nor {word!r}")
                if isinstance(place, int) and not 0 <= place < size:
                    raise BundleError(f"{MODEL_FILE}: {name}: id {place} is outside 0..{size - 1}")
            if word in places and not self.languages:
                raise BundleError(f"{MODEL_FILE}: languages: {name} needs them, and there are none")
        for name in ("default_source_language", "default_target_language"):
            if getattr(self, name) is not None and getattr(self, name) not in self.languages:
                raise BundleError(f"{MODEL_FILE}: {name}: {getattr(self, name)!r} is not one of the languages")

    @property
    def max_new_tokens(self) -> int:
        """The most tokens that one answer can have: all positions but those of the prompt after its first token."""
        return self.max_target_length - len(self.decoder_prompt) + 1

    @property
    def framing(self) -> Framing:
        """What is put around sources and before targets."""
        return Framing(
            source_prefix=self.source_prefix, source_suffix=self.source_suffix, decoder_prompt=self.decoder_prompt,
            languages=self.languages, default_source_language=self.default_source_language,
            default_target_language=self.default_target_language,
        )

    @property
    def example_source(self) -> tuple[int, ...]:
        """A short complete source, for trying the model out. ``eos_id`` is the target's, and no source may have it."""
        frame = self.framing.example()
        room = self.max_source_length - len(frame.prefix) - len(frame.suffix)
        return frame.complete((min(self.eos_id, self.source_vocab_size - 1),) * min(3, room))

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
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MODEL_FILE}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise BundleError(f"{MODEL_FILE}: not a JSON object")
        if values.get("format") != FORMAT:
            raise BundleError(f"{MODEL_FILE}: format {values.get('format')} is not {FORMAT}; export the model again")
        known = {entry.name: entry for entry in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise BundleError(f"{MODEL_FILE}: unknown fields: {', '.join(unknown)}")
        required = {
            name for name, entry in known.items()
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        }
        if missing := sorted(required - set(values)):
            raise BundleError(f"{MODEL_FILE}: missing fields: {', '.join(missing)}")
        for name, value in values.items():
            if (wanted := _ill_typed(known[name].type, value)) is not None:
                raise BundleError(f"{MODEL_FILE}: {name}: {value!r:.100} is not {wanted}")
        try:
            states = tuple(StateTensor(**{**entry, "shape": tuple(entry["shape"])}) for entry in values["states"])
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"{MODEL_FILE}: states are malformed: {error}") from None
        try:
            search = SearchDefaults.from_json(values.get("search", {}))
        except SearchError as error:
            raise BundleError(f"{MODEL_FILE}: search.{error}") from None
        tuples = {name: tuple(values[name]) for name in ("source_prefix", "source_suffix", "decoder_prompt")}
        try:
            alignment = None if values.get("alignment") is None else Alignment.from_json(values["alignment"])
        except ValueError as error:
            raise BundleError(f"{MODEL_FILE}: alignment: {error}") from None
        return cls(**{**values, **tuples, "states": states, "search": search, "alignment": alignment})


def _ill_typed(declared: object, value: object) -> str | None:
    """What a JSON value should be and is not, or None. JSON would happily carry "512" or 1.5 for an integer."""
    if declared is int or (declared == int | None and value is not None):
        return None if _is_integer(value) else "an integer"
    if declared is bool:
        return None if isinstance(value, bool) else "true or false"
    if declared is str or (declared == str | None and value is not None):
        return None if isinstance(value, str) else "a string"
    if declared == tuple[Place, ...]:
        good = isinstance(value, list) and all(_is_integer(item) or isinstance(item, str) for item in value)
        return None if good else "a list of integers and words"
    if declared == dict[str, int]:
        good = isinstance(value, dict) and all(_is_integer(item) for item in value.values())
        return None if good else "an object of integers"
    if declared == tuple[StateTensor, ...]:
        good = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        return None if good else "a list of objects"
    if declared in (dict[str, Any], SearchDefaults) or (declared == Alignment | None and value is not None):
        return None if isinstance(value, dict) else "an object"
    return None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_model(directory: Path) -> ModelDescription:
    """Read ``model.json`` of a bundle whose manifest was checked before."""
    try:
        text = (directory / MODEL_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{MODEL_FILE}: cannot be read: {error}") from None
    return ModelDescription.from_json(text)
