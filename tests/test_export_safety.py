"""What an export must never do: end in a traceback, or leave half a bundle."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from seqserve.bundle import BundleError
from seqserve_export import command, pipeline
from tiny_model import write_native


def run(source: Path, out: Path, *arguments: str, open_bundle: Any = None) -> int:
    """The command as the command line runs it."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(source), str(out), *arguments]), open_bundle)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_native(tmp_path / "tiny")
    return tmp_path / "tiny"


def left(source: Path) -> list[str]:
    """What is in the directory beside the source, hidden entries too."""
    return sorted(path.name for path in source.parent.iterdir() if path != source)


def test_a_checkpoint_that_no_bundle_can_describe_is_one_line(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(*_: object) -> None:
        raise BundleError("model.json: source_suffix: id 9 is outside 0..8")

    monkeypatch.setattr(pipeline, "describe", describe)
    assert run(source, source.parent / "out") == 1
    told = f"{source}: cannot become a bundle: model.json: source_suffix: id 9 is outside 0..8"
    assert capsys.readouterr() == ("", f"seqserve export: {told}\n")
    assert left(source) == []
