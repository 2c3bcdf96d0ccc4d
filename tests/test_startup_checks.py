"""What a process is checked for before it serves, and what no source of the server may hold."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.internal import api_implementation

import seqserve
import seqserve_client
import seqserve_server
from cli_process import start
from seqserve_server.errors import StartupError
from seqserve_server.startup_checks import UNWANTED, check_process

# Modules that run what they read, and functions that do; a token's end and a certificate's are dates, and nothing else
# may look at the time of day, which jumps.
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
TIME_OF_DAY = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
MAY_ASK_THE_TIME = {"authentication.py", "certificates.py", "tracing.py"}  # expiry, and spans; no decision of the core


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process load what no server does."""
    for name in UNWANTED:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_this_process_passes() -> None:
    check_process()


def test_another_protobuf_than_upb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_implementation, "Type", lambda: "python")
    with pytest.raises(StartupError, match="protobuf runs on its 'python' implementation"):
        check_process()


@pytest.mark.parametrize("name", UNWANTED)
def test_a_library_that_reads_checkpoints_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, sys)
    with pytest.raises(StartupError, match=f"{name} is loaded"):
        check_process()


@pytest.mark.parametrize("user", [0, 65532])
def test_root_is_warned(user: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    check_process()
    assert ("runs as root" in caplog.text) is (user == 0)


def test_serve_checks_its_process(tiny_bundle: Path) -> None:
    code = "import sys; sys.modules['torch'] = sys; from seqserve_cli.main import main; sys.exit(main())"
    process = start("serve", str(tiny_bundle), "--port", "0", "--metrics-port", "0", python=code)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.endswith("seqserve serve: torch is loaded in this process, and serving runs without it\n")


def sources() -> Iterator[Path]:
    for package in (seqserve, seqserve_server, seqserve_client):
        yield from Path(package.__path__[0]).rglob("*.py")


def findings(name: str, text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [each for each in names if each.partition(".")[0] in UNSAFE]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS or (called.endswith("np.load") and "allow_pickle" in ast.unparse(node)):
                found.append(called)
            if any(called.endswith(each) for each in TIME_OF_DAY) and name not in MAY_ASK_THE_TIME:
                found.append(called)
    return found


def test_no_source_runs_what_it_reads_or_asks_the_time_of_day() -> None:
    seen = {path.name: findings(path.name, path.read_text(encoding="utf-8")) for path in sources()}
    assert len(seen) > 80
    assert {name: found for name, found in seen.items() if found} == {}


@pytest.mark.parametrize("bad", [
    "import pickle", "from marshal import loads", "eval('1')", "import time\ntime.time()",
    "from datetime import datetime\ndatetime.now()", "np.load(file, allow_pickle=True)",
])
def test_a_source_that_does_is_found(bad: str) -> None:
    assert findings("server.py", bad)
