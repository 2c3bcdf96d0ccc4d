"""The canonical models' own checkpoints: config.json, model.safetensors and, for text, tokenizer.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file

from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint
from seqserve_export.families.files import (
    CONFIG_FILE,
    SAFETENSORS_FILE,
    config_file,
    digests,
    read_json,
    read_weights,
    weights_file,
)
from seqserve_export.families.hub_tokenizer import TOKENIZER_FILE, read_hub_tokenizer
from seqserve_export.families.weights import fill, format_notes, freeze, stored_names
from seqserve_export.model import CanonicalConfig, CanonicalModel, Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError

Config = TypeVar("Config", bound=CanonicalConfig)

_TELLING = {"width", "heads", "head_size", "ffn_width"}  # keys that no other family's config.json has together


def in_its_words(directory: Path) -> bool:
    """Whether there is a config.json in the words of ``TransformerConfig``."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_json(path).keys() >= _TELLING


def recognises(directory: Path) -> bool:
    """Those whose decoder attends; ``retnet`` is the name of the others, and ``native`` reads them when it is asked."""
    return in_its_words(directory) and read_json(directory / CONFIG_FILE).get("decoder_mixing") != "retention"


def load(directory: Path) -> LoadedCheckpoint:
    """Read a Transformer's checkpoint."""
    return read_native(directory, "native", TransformerConfig.from_dict, Transformer.without_values)


def read_native(
    directory: Path, family: str, described: Callable[[dict[str, Any]], Config],
    without_values: Callable[[Config], CanonicalModel],
) -> LoadedCheckpoint:
    """Read a checkpoint of one kind of model. Sources are the pieces of the text and the end token.

    Args:
        family: Its name.
        described: Makes the model's description of what config.json says.
        without_values: Makes the model of its description.

    Raises:
        ExportError: a description that contradicts itself, weights that are not the model's, or a tokenizer that does
            not fit it.
    """
    path = config_file(directory)
    try:
        config = described(read_json(path))
    except (ConfigError, TypeError) as error:
        raise ExportError(f"{path}: {error}") from None
    file = weights(directory)
    model = without_values(config)
    tensors = read_weights(file)
    fill(model, tensors, {name: name for name in stored_names(model)}, file)
    text = read_hub_tokenizer(directory, config)
    return LoadedCheckpoint(
        family=family,
        model=freeze(model),
        source_prefix=(),
        source_suffix=(config.eos_id,),
        unk_id=None if text is None else text.file.unknown_id,
        default_max_new_tokens=min(DEFAULT_MAX_NEW_TOKENS, config.max_target_length),
        tokenizer=None if text is None else text.file,
        no_tokenizer=f"without {TOKENIZER_FILE}",
        provenance={
            "source_class": f"seqserve.{type(model).__name__}",
            "source_files": digests([path, file, directory / TOKENIZER_FILE]),
        },
        notes=format_notes(tensors),
    )


def weights(directory: Path) -> Path:
    """The file with the weights. None is a pickle: nothing but ``save_native`` writes these directories."""
    return weights_file(directory, pickle_file=None)


def save_native(model: CanonicalModel, directory: Path, tokenizer: Path | None = None) -> None:
    """Write any canonical model as a checkpoint of its own into an existing directory, each shared tensor once."""
    state = model.state_dict()
    tensors = {name: state[name].detach().float().contiguous() for name in stored_names(model)}
    save_file(tensors, directory / SAFETENSORS_FILE, metadata={"format": "seqserve-native"})
    text = json.dumps(model.config.to_dict(), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    if tokenizer is not None:
        (directory / TOKENIZER_FILE).write_bytes(tokenizer.read_bytes())
