"""Render Kustomize directories and validate every document against the schemas of Kubernetes.

    python deploy/manifests.py deploy/base [...]
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

# The oldest has preStop.sleep, which the base uses, enabled by default.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def can_render() -> bool:
    """Kustomize comes with kubectl, and kubectl is not on PyPI."""
    return shutil.which("kubectl") is not None


def render(directory: Path) -> list[dict[str, Any]]:
    """Documents of a kustomization, as they would be applied. Needs no cluster.

    Raises:
        subprocess.CalledProcessError: when it cannot be rendered; kubectl has said why on stderr.
    """
    command = ["kubectl", "kustomize", str(directory)]
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document is not None]


def schema_errors(documents: list[dict[str, Any]]) -> list[str]:
    """One line for each document that is not valid; unknown fields count as errors."""
    errors = []
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                errors.append(f"{name}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    return errors


def main(directories: list[Path]) -> int:
    """Print a line per directory, or the errors."""
    if not can_render():
        print("skipped: kubectl is not installed, so no manifest was rendered or validated")
        return 0
    failed = False
    for directory in directories:
        documents = render(directory)
        errors = schema_errors(documents)
        failed |= bool(errors)
        print(f"{directory}: {len(documents)} documents, Kubernetes {' and '.join(VERSIONS)}: "
              f"{'valid' if not errors else 'NOT VALID'}")
        for error in errors:
            print(f"  {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
