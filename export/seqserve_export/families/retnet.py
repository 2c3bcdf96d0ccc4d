"""Encoder-decoders whose decoder retains (Sun et al. 2023): ``native`` checkpoints that say so in their config.json.

No other layout is read. The authors' library (torchscale) has retention in decoder-only language models, has no
encoder-decoder of it and published no weights, and neither did those who wrote it again.
"""

import dataclasses
from pathlib import Path

from seqserve_export.errors import ExportError
from seqserve_export.families import native
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import config_file, read_json

_FIELD, _VALUE = "decoder_mixing", "retention"


def recognises(directory: Path) -> bool:
    """A native config.json with retention."""
    return native.in_its_words(directory) and read_json(config_file(directory)).get(_FIELD) == _VALUE


def load(directory: Path) -> LoadedCheckpoint:
    """As ``native``; what is read there and has no retention is refused."""
    path = config_file(directory)
    if (found := read_json(path).get(_FIELD, "attention")) != _VALUE:
        raise ExportError(f"{path}: {_FIELD}: {found!r:.80} is not {_VALUE!r}; the family native reads others")
    return dataclasses.replace(native.load(directory), family="retnet")
