"""What an installation needs: serving without the export stack, calling without the server's, everything pinned."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# Import every module of some packages in a fresh interpreter where some others cannot be imported, as on a machine
# without them. Meta path finders are asked first, so this also holds where they are installed.
IMPORT_ALL = """
import importlib, pkgutil, sys

packages, blocked = (argument.split(",") for argument in sys.argv[1:])

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
count = 0
for package in packages:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count, sorted(name for name in sys.modules if name.partition(".")[0] in blocked))
"""


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        pytest.param(
            "seqserve_server,seqserve_client,seqserve_cli", "torch,transformers,onnx,onnxscript,onnx_ir,safetensors",
            id="serving imports nothing of the export stack",
        ),
        pytest.param(
            "seqserve_client,seqserve_cli,seqserve",
            "torch,transformers,onnx,onnxruntime,tokenizers,sentencepiece,prometheus_client,numpy,grpc_reflection,starlette,"
            "uvicorn",
            id="calling imports nothing of the server's stack",
        ),
    ],
)
def test_packages_import_where_others_are_missing(packages: str, blocked: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALL, packages, blocked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    count, loaded = done.stdout.strip().split(" ", 1)
    assert int(count) > 0
    assert loaded == "[]"


# What would keep users from importing tritonclient or KServe's client: package inference in the one pool of messages.
REGISTERED = """
import importlib, pkgutil, sys
from google.protobuf import descriptor_pool

for package in sys.argv[1].split(","):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__") and module.name not in sys.argv[2].split(","):
            importlib.import_module(module.name)
try:
    descriptor_pool.Default().FindServiceByName("inference.GRPCInferenceService")
    print("registered")
except KeyError:
    print("free")
"""
PROTOCOL = "seqserve_server.open_inference"


@pytest.mark.parametrize(("packages", "left_out", "said"), [
    ("seqserve,seqserve_client,seqserve_cli", "", "free"),
    ("seqserve_server", ",".join(
        f"{PROTOCOL}.{name}" for name in ("bounds", "inference", "model_metadata", "multiplex", "open_inference_pb2",
                                          "open_inference_pb2_grpc", "parameters", "service", "tensors")
    ), "free"),
    (PROTOCOL, "", "registered"),  # the check can see it
])
def test_the_open_inference_protocols_messages_are_registered_by_its_service_alone(
    packages: str, left_out: str, said: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", REGISTERED, packages, left_out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != project["name"]]


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    pinned = pins()
    assert [entry.name for entry in requirements() if canonicalize_name(entry.name) not in pinned] == []
    wrong = [str(entry) for entry in requirements() if pinned[canonicalize_name(entry.name)] not in entry.specifier]
    assert wrong == []


def test_the_grpc_packages_move_together() -> None:
    versions = {version for name, version in pins().items() if name.startswith("grpcio")}
    assert len(versions) == 1
