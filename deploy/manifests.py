"""Render Kustomize directories and validate every document: by schema, by Pod Security, by what it refers to.

    python deploy/manifests.py [--out DIRECTORY] [--crds DIRECTORY] deploy/base deploy/overlays/*

``--out`` writes what was rendered, a file for each directory. ``--crds`` holds definitions of custom resources as a
cluster gives them (``kubectl get crd NAME -o yaml``); what is defined there is validated by them too.
"""

import argparse
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from pods import Document, pod_of, restricted_errors
from references import reference_errors

# The oldest has preStop.sleep, which the base uses, enabled by default.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
# The oldest for pods with image volumes: there they are enabled by default.
IMAGE_VOLUME_VERSIONS = ("1.35", kubernetes_validate.latest_version())
SCHEMAS = Path(__file__).resolve().parent / "schemas"


def can_render() -> bool:
    """Kustomize comes with kubectl, and kubectl is not on PyPI."""
    return shutil.which("kubectl") is not None


def render(directory: Path) -> list[Document]:
    """Documents of a kustomization, as they would be applied. Needs no cluster.

    Raises:
        subprocess.CalledProcessError: when it cannot be rendered; kubectl has said why on stderr.
    """
    command = ["kubectl", "kustomize", str(directory)]
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document is not None]


def custom_schema(document: Document) -> Any | None:
    """Our schema of a custom resource; None for a kind of Kubernetes itself, or one that nobody has described."""
    path = SCHEMAS / f"{document['apiVersion'].replace('/', '_')}_{document['kind']}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def schema_errors(documents: list[Document]) -> list[str]:
    """One line for each thing that is not valid; unknown fields count as errors."""
    errors = []
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        schema = custom_schema(document)
        if schema is None:
            errors += [f"{name}: {error}" for error in _core_errors(document)]
            continue
        errors += [f"{name}: {error}" for error in _json_errors(document, schema)]
        if (pod := pod_of(document)) is not None:
            errors += [f"{name}: {error}" for error in _core_errors(pod)]
    return errors


def _core_errors(document: Document) -> list[str]:
    errors = []
    pod = pod_of(document)
    image_volumes = pod is not None and any("image" in volume for volume in pod["spec"].get("volumes", []))
    for version in IMAGE_VOLUME_VERSIONS if image_volumes else VERSIONS:
        error = _core_error(json.dumps(document), version)
        errors += [error] if error is not None else []
    return errors


@functools.cache  # overlays have most documents in common, and reading a schema takes long
def _core_error(text: str, version: str) -> str | None:
    document = json.loads(text)
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"Kubernetes {version} has no {document['apiVersion']} {document['kind']}"
    return None


def _json_errors(document: Document, schema: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]


def defined_schemas(directory: Path) -> dict[tuple[str, str], Any]:
    """(API version, kind) -> schema, of every CustomResourceDefinition in the YAML files of a directory."""
    found = {}
    for path in sorted(directory.glob("*.y*ml")):
        for definition in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if not definition or definition.get("kind") != "CustomResourceDefinition":
                continue
            spec = definition["spec"]
            for version in spec["versions"]:
                key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                schema = version["schema"]["openAPIV3Schema"]
                # Every resource has these, whether its definition names them or not.
                head: dict[str, Any] = {"apiVersion": {}, "kind": {}, "metadata": {}}
                found[key] = _closed({**schema, "properties": {**head, **schema.get("properties", {})}})
    return found


def _closed(schema: Any) -> Any:
    """Refuse fields that are not named: a cluster would drop them without a word."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    kept = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not kept:
        closed["additionalProperties"] = False
    return closed


def all_errors(documents: list[Document], defined: dict[tuple[str, str], Any] | None = None) -> list[str]:
    """What is wrong with what one directory renders: its shape first, and if that is right, what it says."""
    errors = schema_errors(documents)
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        schema = (defined or {}).get((document["apiVersion"], document["kind"]))
        if schema is not None:
            errors += [f"{name}: its definition: {error}" for error in _json_errors(document, schema)]
    if errors:
        return errors
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if (pod := pod_of(document)) is not None:
            errors += [f"{name}: Pod Security: {error}" for error in restricted_errors(pod)]
    return errors + reference_errors(documents)


def main(arguments: list[str]) -> int:
    """Print a line per directory, or the errors."""
    parser = argparse.ArgumentParser(description="Render and validate Kustomize directories.")
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="write what was rendered into this directory")
    parser.add_argument("--crds", type=Path, help="directory of CustomResourceDefinitions to validate by, too")
    options = parser.parse_args(arguments)
    if not can_render():
        print("skipped: kubectl is not installed, so no manifest was rendered or validated")
        return 0
    defined = defined_schemas(options.crds) if options.crds else {}
    failed = False
    for directory in options.directories:
        documents = render(directory)
        errors = all_errors(documents, defined)
        failed |= bool(errors)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump_all(documents, sort_keys=False)
            (options.out / f"{directory.name}.yaml").write_text(text, encoding="utf-8")
        print(f"{directory}: {len(documents)} documents: {'valid' if not errors else 'NOT VALID'}")
        for error in errors:
            print(f"  {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
