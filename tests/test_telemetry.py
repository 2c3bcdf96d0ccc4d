"""ONNX Runtime reports to its maker unless it is told not to before it is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What the variable was in the moment in which the runtime was first looked for, printed.
WATCHED = """
import importlib, os, sys

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            sys.meta_path.remove(self)
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watcher())
for name in sys.argv[1].split(","):
    importlib.import_module(name)
"""
LOADED = """
import seqserve_server.sessions, onnxruntime
assert onnxruntime.get_available_providers()
"""


def run(code: str, argument: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code, argument], env=environment, capture_output=True, text=True, timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("modules", ["seqserve_server.server", "seqserve_server.local", "seqserve_server.trial",
                                     "seqserve_server.verify_command", "seqserve_export.pipeline,onnxruntime"])
def test_it_is_off_before_the_runtime_is_loaded(modules: str) -> None:
    assert run(WATCHED, modules) == "1"


def test_the_check_sees_a_runtime_that_is_loaded_first() -> None:
    """Its module is not loaded here, only looked for: nothing may be sent."""
    looked_for = "import importlib.util; importlib.util.find_spec('onnxruntime')\n"
    assert run(WATCHED.replace("for name in", looked_for + "for name in"), "seqserve_server.server") == "None"


def test_who_has_set_it_has_decided() -> None:
    assert run(WATCHED, "seqserve_server.server", ORT_DISABLE_TELEMETRY="0") == "0"


def test_a_runtime_that_was_loaded_leaves_no_identifier_of_the_machine(tmp_path: Path) -> None:
    run(LOADED, "", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert list(tmp_path.rglob("*")) == []
