"""What the paths of ``serve`` mean, and what counts as a change."""

import os
from pathlib import Path

import pytest

from seqserve_server.bundle_directories import find_bundles, look_at
from seqserve_server.errors import StartupError
from swapping import Toys


def found(toys: Toys, *places: str) -> list[str]:
    bundles = find_bundles(tuple(toys.directory / place for place in places)).bundles
    return [str(path.relative_to(toys.directory)) for path in bundles]


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


def test_bundles_are_taken_as_they_are_and_in_their_order(toys: Toys) -> None:
    toys.write("b", 0)
    toys.write("a", 0)
    assert found(toys, "b", "a", "b") == ["b", "a"]
    assert found(toys, "not-there") == ["not-there"]  # opening it says so


def test_a_directory_holds_models_and_a_model_numbered_versions_of_which_the_highest_counts(toys: Toys) -> None:
    for place in ("models/de/9", "models/de/10", "models/de/.11.partial", "models/fr"):
        toys.write(place, 0)
    (toys.directory / "models/de/12").mkdir()  # no manifest yet
    (toys.directory / "models/lost+found").mkdir()
    assert found(toys, "models") == ["models/de/10", "models/fr"]
    assert found(toys, "models/de") == ["models/de/10"]
    (told,) = find_bundles((toys.directory / "models",)).ignored
    assert told.endswith("lost+found: neither a bundle nor a directory of numbered versions")


def test_versions_beside_models_are_refused(toys: Toys) -> None:
    toys.write("models/1", 0)
    toys.write("models/de", 0)
    with pytest.raises(StartupError, match=r"holds both versions \(1\) and models \(de\)"):
        found(toys, "models")


def test_a_directory_without_bundles_is_left_for_opening_to_refuse(toys: Toys) -> None:
    (toys.directory / "empty").mkdir()
    assert found(toys, "empty") == ["empty"]


def test_traces_change_with_any_file_and_with_any_link(toys: Toys) -> None:
    path = toys.write("v1", 1)
    toys.write("v2", 1)
    toys.turn("current", "v1")
    link = toys.directory / "current"
    before = look_at(link)
    assert look_at(link) == before
    os.utime(path / "model.json", ns=(1, 1))
    touched = look_at(link)
    assert (touched.version, touched.traces != before.traces) == (before.version, True)
    toys.turn("current", "v2")
    turned = look_at(link)
    assert (turned.version, turned.traces != touched.traces) == (before.version, True)
    toys.write("v2", 5)
    assert look_at(link).version != before.version
    (path / "model.json").unlink()
    assert "model.json missing" in look_at(path).traces


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"files": 3}', b"[" * 100_000, b"\xff", b'{"files": {"\\u0000": 1}}']
)
def test_a_manifest_that_is_none_is_seen_and_raises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert look_at(tmp_path).path == tmp_path
