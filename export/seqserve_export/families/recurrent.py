"""The recurrent model's own checkpoints: config.json, model.safetensors and, for text, tokenizer.json."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save_file

from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS, LoadedCheckpoint, SourceOptions
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
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq
from seqserve_export.model.config import ConfigError

TELLING = "wiring"  # a key that no other family's config.json has; its values are names of families


def wiring(directory: Path) -> object:
    """What config.json says of the wiring; None where it says nothing, or is not there."""
    path = directory / CONFIG_FILE
    return read_json(path).get(TELLING) if path.is_file() else None


def load(directory: Path, family: str, options: SourceOptions) -> LoadedCheckpoint:
    """Read a checkpoint whose wiring has the name of the family. Sources are the pieces of the text and the end token.

    Raises:
        ExportError: another wiring, or an option, all of which config.json has a word for.
    """
    path = config_file(directory)
    values = read_json(path)
    if values.get(TELLING) != family:
        raise ExportError(f"{path}: {TELLING} {values.get(TELLING)!r:.80} is not that of the family {family}")
    for entry in dataclasses.fields(options):
        if getattr(options, entry.name) is not None:
            raise ExportError(f"--{entry.name.replace('_', '-')}: {path} says it")
    try:
        config = RecurrentConfig.from_dict(values)
    except (ConfigError, TypeError) as error:
        raise ExportError(f"{path}: {error}") from None
    file = weights(directory)
    model = RecurrentSeq2Seq.without_values(config)
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
            "source_class": "seqserve.RecurrentSeq2Seq",
            "source_files": digests([path, file, directory / TOKENIZER_FILE]),
        },
        notes=format_notes(tensors),
    )


def weights(directory: Path) -> Path:
    """The file with the weights. None is a pickle: nothing but ``save_recurrent`` writes these directories."""
    return weights_file(directory, pickle_file=None)


def save_recurrent(model: RecurrentSeq2Seq, directory: Path, tokenizer: Path | None = None) -> None:
    """Write a model as a checkpoint of its own into an existing directory, each shared tensor once."""
    state = model.state_dict()
    tensors = {name: state[name].detach().float().contiguous() for name in stored_names(model)}
    save_file(tensors, directory / SAFETENSORS_FILE, metadata={"format": "seqserve-native"})
    text = json.dumps(model.config.to_dict(), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    if tokenizer is not None:
        (directory / TOKENIZER_FILE).write_bytes(tokenizer.read_bytes())
