"""A bundle of one variant of the tiny model, without proof."""

from pathlib import Path

import pytest

from built_once import built_once, run_directory
from seqserve_export import pipeline
from seqserve_export.description import describe
from seqserve_export.families import choose_family
from tiny_model import write_native
from variants import ALONE, VARIANTS


class Built:
    """The checkpoint, and the directory of what was made of it; traced once in a run, whichever worker comes first."""

    def __init__(self, factory: pytest.TempPathFactory, variant: str) -> None:
        every = VARIANTS | ALONE
        self.directory = run_directory(factory) / "built" / f"variant-{list(every).index(variant)}"

        def write_source(made: Path) -> None:
            write_native(made, **every[variant])

        source = built_once(self.directory / "source", write_source)
        self.checkpoint = choose_family(source).read(source)
        self.description = describe(self.checkpoint, "tiny", "fp32")
        self.bundle = built_once(self.directory / "bundle", self._write)

    def _write(self, bundle: Path) -> None:
        pipeline.write_graphs(self.checkpoint.model, bundle, self.description.alignment)
        (bundle / "model.json").write_text(self.description.to_json())
