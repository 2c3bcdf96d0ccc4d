"""What the images install, with hashes: the locks against what they are made from, and what a check of them finds."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
HASH = "0" * 64


@pytest.fixture(scope="module")
def locks() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        yield importlib.import_module("locks")
    finally:
        sys.path.remove(str(ROOT / ".ci"))


@pytest.fixture(scope="module")
def constraints() -> str:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")


@pytest.fixture
def cpu(locks: ModuleType) -> tuple[object, str]:
    (lock,) = (each for each in locks.LOCKS if each.name == "cpu")
    return lock, lock.path.read_text(encoding="utf-8")


def test_the_locks_are_in_step(locks: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert locks.main([]) == 0, capsys.readouterr().out


def test_every_entry_has_hashes_and_one_version(locks: ModuleType) -> None:
    for lock in locks.LOCKS:
        found = list(locks.entries(lock.path.read_text(encoding="utf-8")))
        assert len(found) == lock.path.read_text(encoding="utf-8").count("==") - sum(
            str(entry.marker).count("==") for entry, _ in found
        )
        assert all(hashes > 0 for _, hashes in found)


@pytest.mark.parametrize(("change", "said"), [
    ((r"^grpcio==1\.\d+\.\d+", "grpcio==1.0.0"), "grpcio 1.0.0: 1."),
    ((r"^numpy==(?:.*\n)(?:    .*\n)+", ""), "numpy>=2.1: missing"),
    ((r"^flatbuffers==(?:.*\n)(?:    .*\n)+", ""), "flatbuffers: installed with server, otel, and missing"),
    ((r"^click==", f"leftpad==1 \\\n    --hash=sha256:{HASH}\nclick=="), "leftpad 1: not in constraints.txt"),
    ((r"^(click==\S+)(?:.*\n)(?:    .*\n)+", r"\1" + "\n"), "no hashes: click=="),
    ((r"^click==\S+", "click>=8"), "not one version: click>=8"),
    ((r"(?s).*", ""), "it is empty"),
])
def test_a_lock_out_of_step_is_found(
    locks: ModuleType, cpu: tuple[object, str], constraints: str, change: tuple[str, str], said: str
) -> None:
    lock, text = cpu
    changed = re.sub(change[0], change[1], text, count=1, flags=re.MULTILINE)
    assert changed != text
    assert [each for each in locks.problems(lock, changed, constraints) if each.startswith(said)]


def test_a_renewed_constraint_is_found(locks: ModuleType, cpu: tuple[object, str], constraints: str) -> None:
    renewed = re.sub(r"^numpy==.*$", "numpy==3.0.0", constraints, flags=re.MULTILINE)
    assert [each for each in locks.problems(*cpu, renewed) if each.startswith("numpy ") and "3.0.0" in each]


def test_the_image_installs_nothing_but_what_is_locked() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    installs = [
        line for line in text.replace("\\\n", " ").replace("&&", "\n").splitlines()
        if re.search(r"\bpip\b.* install\b|\bpip wheel\b", line) and not line.startswith("#")
    ]
    assert len(installs) == 6
    for line in installs:
        hashed = "--require-hashes" in line and "--only-binary :all:" in line
        own = "--no-deps" in line and ("--no-index" in line or "--no-build-isolation" in line)
        assert hashed or own, line


def test_pip_reads_the_locks_and_asks_for_hashes(locks: ModuleType, tmp_path: Path) -> None:
    """From nowhere: it gets as far as looking for the first package, which shows that it understood all lines."""
    for lock in locks.LOCKS:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--isolated", "install", "--no-index", "--dry-run", "--require-hashes",
             "--ignore-installed", "--target", str(tmp_path), "-r", str(lock.path)],
            env={"PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120,
            check=False,
        )
        assert "No matching distribution found for" in done.stderr, done.stderr
        assert "hash" not in done.stderr.replace("--hash", "")
