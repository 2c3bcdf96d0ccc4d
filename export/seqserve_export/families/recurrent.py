"""The recurrent model's own checkpoints: those of ``native``, with a config.json that says the wiring."""

import dataclasses
from pathlib import Path

from seqserve_export.errors import ExportError
from seqserve_export.families import native
from seqserve_export.families.checkpoint import LoadedCheckpoint, SourceOptions
from seqserve_export.families.files import CONFIG_FILE, config_file, read_json
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq

TELLING = "wiring"  # a key that no other family's config.json has; its values are names of families


def wiring(directory: Path) -> object:
    """What config.json says of the wiring; None where it says nothing, or is not there."""
    path = directory / CONFIG_FILE
    return read_json(path).get(TELLING) if path.is_file() else None


def load(directory: Path, family: str, options: SourceOptions) -> LoadedCheckpoint:
    """Read a checkpoint whose wiring has the name of the family.

    Raises:
        ExportError: another wiring; an option, all of which config.json has a word for; what ``read_native`` refuses.
    """
    path = config_file(directory)
    values = read_json(path)
    if values.get(TELLING) != family:
        raise ExportError(f"{path}: {TELLING} {values.get(TELLING)!r:.80} is not that of the family {family}")
    for entry in dataclasses.fields(options):
        if getattr(options, entry.name) is not None:
            raise ExportError(f"--{entry.name.replace('_', '-')}: {path} says it")
    return native.read_native(directory, family, RecurrentConfig.from_dict, RecurrentSeq2Seq.without_values)
