"""Hold KServe's resources against the models that the Python package of KServe carries, made from its own API.

    .venv-deploy/bin/python deploy/kserve_models.py FILE.yaml [...]

The models are read, not imported: the package is installed without the web server and the rest that it would need.
Fields of pods are Kubernetes' own and have no model there; manifests.py looks at those.
"""

import ast
import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml

Fields = dict[str, str]
PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
WRAPPED = re.compile(r"list\[(?P<item>.+)\]|dict\(str, (?P<value>.+)\)")


def read_models(directory: Path) -> dict[str, Fields]:
    """Class name -> JSON field -> type, of every model."""
    models = {}
    for path in directory.glob("v1*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    each.targets[0].id: ast.literal_eval(each.value)
                    for each in node.body
                    if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
                }
                types, names = tables["openapi_types"], tables["attribute_map"]
                models[node.name] = {names[attribute]: types[attribute] for attribute in types}
    return models


def errors_of(value: Any, kind: str, models: dict[str, Fields], path: str) -> list[str]:
    """What in a value is not as its type says; fields that the type does not have are errors."""
    if wrapped := WRAPPED.fullmatch(kind):
        if wrapped["item"]:
            if not isinstance(value, list):
                return [f"{path}: not a list"]
            items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        else:
            if not isinstance(value, dict):
                return [f"{path}: not an object"]
            items = [(f"{path}.{key}", item) for key, item in value.items()]
        inner = wrapped["item"] or wrapped["value"]
        return [error for place, item in items for error in errors_of(item, inner, models, place)]
    if kind in PLAIN:
        fits = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if fits else [f"{path}: {value!r} is not of type {kind}"]
    if kind not in models:
        return []
    if not isinstance(value, dict):
        return [f"{path}: not an object"]
    fields, errors = models[kind], []
    for key, item in value.items():
        place = f"{path}.{key}"
        unknown = [f"{place}: no such field in {kind}"]
        errors += errors_of(item, fields[key], models, place) if key in fields else unknown
    return errors


def document_errors(document: dict[str, Any], models: dict[str, Fields]) -> list[str] | None:
    """None for what is not KServe's."""
    group, _, version = document["apiVersion"].rpartition("/")
    if group != "serving.kserve.io":
        return None
    kind = f"V{version[1:]}{document['kind']}"
    return errors_of(document, kind, models, document["kind"]) if kind in models else [f"no model {kind}"]


def main(paths: list[Path]) -> int:
    """Print a line per document of KServe, and the errors."""
    installed = distribution("kserve")
    models = read_models(Path(str(installed.locate_file("kserve/models"))))
    failed = False
    for path in paths:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            errors = document_errors(document, models)
            if errors is not None:
                failed |= bool(errors)
                verdict = "NOT VALID" if errors else "valid"
                print(f"{path.name}: {document['kind']}: kserve {installed.version} ({len(models)} models): {verdict}")
                for error in errors:
                    print(f"  {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
