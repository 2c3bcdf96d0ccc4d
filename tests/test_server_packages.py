"""What a server is made of, as ``make audit`` and ``make sbom`` take it."""

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("server_packages", ROOT / ".ci" / "server_packages.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_list_has_what_the_extra_asks_for_at_the_pinned_versions(module: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["server"], *extras["otel"]]
    found = module.packages()
    assert {canonicalize_name(Requirement(text).name) for text in asked} <= set(found)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==", 1) for line in lines if "==" in line)
    assert {name: pinned.get(name) for name in found} == found
    assert not {"torch", "transformers", "onnx", "pytest", "mypy", "trustme", "seqserve"} & set(found)
    assert "flatbuffers" in found  # of onnxruntime: what is asked for indirectly


def test_a_bill_is_compared_with_the_list(module: ModuleType, tmp_path: Path) -> None:
    components = [{"name": name, "version": version} for name, version in module.packages().items()]
    file = tmp_path / "sbom.json"

    def differences(listed: list[dict[str, str]]) -> list[str]:
        file.write_text(json.dumps({"components": listed}))
        found = module.differences(file)
        assert module.main(["--check", str(file)]) == (1 if found else 0)
        return list(found)

    assert differences(components) == []
    assert len(differences(components[1:])) == 1
    assert len(differences([*components, {"name": "leftpad", "version": "1"}])) == 1
    assert len(differences([{**components[0], "version": "0"}, *components[1:]])) == 1
