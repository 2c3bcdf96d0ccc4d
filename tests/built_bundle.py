"""A bundle of one variant of the tiny model, without proof."""

from pathlib import Path
from typing import Any

from seqserve_export import pipeline
from seqserve_export.description import describe
from seqserve_export.families import choose_family
from tiny_model import write_native


class Built:
    """The checkpoint, and the directory of what was made of it."""

    def __init__(self, directory: Path, changes: dict[str, Any]) -> None:
        source = directory / "source"
        write_native(source, **changes)
        self.checkpoint = choose_family(source).read(source)
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        self.description = describe(self.checkpoint, "tiny", "fp32")
        pipeline.write_graphs(self.checkpoint.model, self.bundle, self.description.alignment)
        (self.bundle / "model.json").write_text(self.description.to_json())
