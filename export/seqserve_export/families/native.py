"""The canonical model's own checkpoints: config.json, model.safetensors and, for text, tokenizer.json."""

import json
from pathlib import Path

from safetensors.torch import save_file

from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint
from seqserve_export.families.files import (
    CONFIG_FILE,
    SAFETENSORS_FILE,
    digests,
    read_json,
    read_weights,
    weights_file,
)
from seqserve_export.families.weights import fill, freeze, stored_names
from seqserve_export.model import Transformer, TransformerConfig
from seqserve_export.model.config import ConfigError
from seqserve_export.tokenizer_files import HubFile

TOKENIZER_FILE = "tokenizer.json"
_TELLING = {"width", "heads", "head_size", "ffn_width"}  # keys that no other family's config.json has together


def recognises(directory: Path) -> bool:
    """A config.json in the words of ``TransformerConfig``."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_json(path).keys() >= _TELLING


def load(directory: Path) -> LoadedCheckpoint:
    """Read a native checkpoint. Sources are the pieces of the text and the end token."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ExportError(f"{directory}: no model here (no {CONFIG_FILE})")
    try:
        config = TransformerConfig.from_dict(read_json(path))
    except (ConfigError, TypeError) as error:
        raise ExportError(f"{path}: {error}") from None
    file = weights_file(directory, pickled=False)
    model = Transformer.without_values(config)
    fill(model, read_weights(file), {name: name for name in stored_names(model)}, file)
    tokenizer = directory / TOKENIZER_FILE
    return LoadedCheckpoint(
        family="native",
        model=freeze(model),
        source_prefix=(),
        source_suffix=(config.eos_id,),
        unk_id=hub_unknown_id(tokenizer),
        default_max_new_tokens=min(DEFAULT_MAX_NEW_TOKENS, config.max_target_length),
        tokenizer=HubFile(tokenizer) if tokenizer.is_file() else None,
        provenance={"source_class": "seqserve.Transformer", "source_files": digests([path, file, tokenizer])},
    )


def save_native(model: Transformer, directory: Path, tokenizer: Path | None = None) -> None:
    """Write a model as a native checkpoint into an existing directory, each shared tensor once."""
    state = model.state_dict()
    weights = {name: state[name].detach().float().contiguous() for name in stored_names(model)}
    save_file(weights, directory / SAFETENSORS_FILE, metadata={"format": "seqserve-native"})
    text = json.dumps(model.config.to_dict(), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    if tokenizer is not None:
        (directory / TOKENIZER_FILE).write_bytes(tokenizer.read_bytes())


def hub_unknown_id(tokenizer: Path) -> int | None:
    """The id of the tokenizer's unknown token, read from the file itself: the exporter needs no tokenizer library."""
    if not tokenizer.is_file():
        return None
    description = read_json(tokenizer)
    model = description.get("model")
    if not isinstance(model, dict):
        raise ExportError(f"{tokenizer}: not a tokenizer: it has no model")
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    vocabulary = model.get("vocab")
    token = model.get("unk_token")
    if token is None or not isinstance(vocabulary, dict):
        return None
    found = vocabulary.get(token)
    return int(found) if isinstance(found, int) else None
