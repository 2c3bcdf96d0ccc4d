"""Weights and settings of a directory in BART's layout, read into the canonical model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqserve_export.errors import ExportError
from seqserve_export.families.bart_layout import (
    BIAS,
    HEAD,
    POSITIONS,
    SETTINGS,
    SHARED,
    SOURCE,
    TARGET,
    Layout,
    read_config,
    tensor_names,
)
from seqserve_export.families.files import CONFIG_FILE, config_file, read_json, read_weights, weights_file
from seqserve_export.families.generation import GENERATION_FILE, Generation, read_generation
from seqserve_export.families.settings import check_known
from seqserve_export.families.weights import equal, fill, format_notes, freeze, name_shared, suppress
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError
from seqserve_export.model.positions import sinusoid_table

START = "decoder_start_token_id"
# Markers of fairseq's converter, read by nobody.
IGNORED = ("model.encoder.version", "model.decoder.version")
TABLE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True, kw_only=True)
class Read:
    """A directory in BART's layout.

    Attributes:
        values: config.json with the class's defaults filled in.
        generation: Its decoder start is the end token where ``start_given`` is false.
        files: Those that were read, for the record.
        notes: Of its generation settings and its weights.
    """

    layout: Layout
    values: dict[str, Any]
    generation: Generation
    start_given: bool
    model: Transformer
    files: list[Path]
    notes: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        """What of ``LoadedCheckpoint.provenance`` all classes have."""
        return {
            "source_class": self.layout.source_class, "generation": self.generation.settings,
            "suppressed_tokens": sorted(self.generation.suppressed),
        }


def read_directory(directory: Path, layout: Layout, *, start_required: bool = True) -> Read:
    """Settings and weights.

    Args:
        start_required: Whether a directory has to name the decoder start token.

    Raises:
        ExportError: one line naming the file and what in it cannot be served exactly.
    """
    path = config_file(directory)
    values = {**layout.defaults, **read_json(path)}
    check_known(path, values, SETTINGS)
    layout.check_class(values)
    generation, start_given = _generation(directory, values, start_required)
    try:
        config = read_config(values, layout, generation)
    except KeyError as error:
        raise ExportError(f"{path}: missing key {error.args[0]!r}") from None
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from None
    generation.check_forced(config.target_vocab_size)
    file = weights_file(directory)
    tensors = with_output_names(read_weights(file))
    model = Transformer.without_values(config)
    names = tensor_names(config)
    drop_copies(tensors, names, values, layout, config, file)
    if config.output_bias:
        prepare_bias(tensors, config, generation)
    fill(model, tensors, names, file)
    return Read(
        layout=layout, values=values, generation=generation, start_given=start_given, model=freeze(model),
        files=[path, file, directory / GENERATION_FILE], notes=generation.notes + format_notes(tensors),
    )


def _generation(directory: Path, values: dict[str, Any], start_required: bool) -> tuple[Generation, bool]:
    """Generation settings, and whether a decoder start token was among them."""
    path = directory / GENERATION_FILE
    stored = read_json(path) if path.is_file() else {}
    given = any(settings.get(START) is not None for settings in (stored, values))
    if not given and not start_required:
        values = {**values, START: stored.get("eos_token_id", values.get("eos_token_id"))}
    return read_generation(directory, values), given


def with_output_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of the class with an output; files of the class without one lack a first word."""
    if not any(name.startswith("model.") for name in tensors):
        tensors = {name if name in (HEAD, BIAS) else f"model.{name}": tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if name not in IGNORED}


def drop_copies(
    tensors: dict[str, Tensor], names: dict[str, str], values: dict[str, Any], layout: Layout,
    config: TransformerConfig, file: Path,
) -> None:
    """Remove tensors that repeat others (tied weights, sinusoids), after checking that they do.

    Raises:
        ExportError: a copy differs from what it should repeat.
    """
    if config.shared_embeddings:
        name_shared(tensors, SHARED, (SOURCE, TARGET, HEAD))
    if not config.shared_embeddings and not layout.separable and SHARED in tensors:
        # Up to transformers 4 only the output could be untied, and both sides' tables were stored once.
        for name in (SOURCE, TARGET):
            tensors.setdefault(name, tensors[SHARED])
    embedding = SHARED if config.shared_embeddings else TARGET
    copies = dict.fromkeys((SOURCE, TARGET), SHARED) if config.shared_embeddings else {}
    if config.tied_output:
        copies[HEAD] = embedding
    for name, original in copies.items():
        copy = tensors.pop(name, None)
        if copy is not None and original in tensors and not equal(copy, tensors[original]):
            raise ExportError(f"{file}: {name} differs from {original}, to which {CONFIG_FILE} ties it")
    if SHARED not in names.values() and (not layout.separable or values.get("share_encoder_decoder_embeddings", True)):
        tensors.pop(SHARED, None)  # kept by transformers beside the untied tables, and read by nobody
    if config.positions == "sinusoidal":
        _drop_sinusoids(tensors, layout, config, file)


def _drop_sinusoids(tensors: dict[str, Tensor], layout: Layout, config: TransformerConfig, file: Path) -> None:
    """Remove stored tables, which are computed anew, after checking that they hold nothing else."""
    for name in [each for stored in POSITIONS.values() for each in (stored, f"{stored}s")]:  # M2M100's has the "s"
        stored = tensors.pop(name, None)
        if stored is None:
            continue
        if stored.dim() != 2 or stored.shape[1] != config.width:
            raise ExportError(f"{file}: {name} is {list(stored.shape)}, not a table of positions {config.width} wide")
        table = sinusoid_table(stored.shape[0], config.width, config.sinusoid_order)
        # Rows before the first token's are never looked up; fairseq has zeros in one of them.
        used, wanted = stored[config.position_offset :], table[config.position_offset :]
        tolerance = TABLE_TOLERANCE.get(stored.dtype, 0.0)
        if used.shape != wanted.shape or not torch.allclose(used.float(), wanted, rtol=0, atol=tolerance):
            raise ExportError(f"{file}: {name} is not the sinusoidal table of {layout.source_class}")


def prepare_bias(tensors: dict[str, Tensor], config: TransformerConfig, generation: Generation) -> None:
    """Give the output bias its canonical shape, and fold in the tokens that generation never chooses."""
    bias = tensors.get(BIAS)
    if bias is None:
        bias = torch.zeros(config.target_vocab_size)
    if bias.dim() == 2:
        bias = bias.squeeze(0)
    if bias.shape == (config.target_vocab_size,) and bias.is_floating_point():  # else the checks name it
        bias = suppress(bias, generation.suppressed, generation.where)
    tensors[BIAS] = bias
