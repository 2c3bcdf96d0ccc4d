"""Locks of what the images are built from: every package at one version, with the hashes of its files.

    python .ci/locks.py --write UV    resolve anew, by the program uv, from pypi.org
    python .ci/locks.py               whether the locks are in step with pyproject.toml, constraints.txt and .venv

``deploy/Dockerfile`` installs from them with ``--require-hashes``, so that a file that was replaced on an index, or on
the way from it, ends the build. The hashes are those of all files of a version, whatever machine and Python they are
for; that there is a wheel for each machine of the images is asked of the index when a lock is written. Checking asks
nobody.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import server_packages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "locks"
INDEX = "https://pypi.org/simple"
PYTHON = "3.11"  # the oldest that is supported, and that of the images
PLATFORMS = ("x86_64-manylinux_2_36", "aarch64-manylinux_2_36")  # the C library of the images' base
_HASHES = re.compile(r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+")
_HEADER = """\
# Written by `make locks`, not by hand: what deploy/Dockerfile installs for {what}. Resolved for CPython
# {python}. The hashes are of all files of each version; there was a wheel for Linux on x86_64 and on aarch64.
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """One file.

    Attributes:
        extras: Of this project; none for what its wheel is built with.
        others: Whether it may have packages that ``constraints.txt`` leaves out, as it does CUDA's libraries.
    """

    name: str
    what: str
    extras: tuple[str, ...]
    others: bool

    @property
    def path(self) -> Path:
        """Where it lies."""
        return FOLDER / f"{self.name}.txt"


LOCKS = (
    Lock("build", "the stage that builds the wheel", (), others=True),
    Lock("cpu", "the target cpu", server_packages.EXTRAS, others=False),
    Lock("gpu", "the target gpu", ("server-gpu", "otel"), others=True),
)


def asked(lock: Lock) -> list[Requirement]:
    """What a lock is resolved from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if not lock.extras:
        return [Requirement(text) for text in project["build-system"]["requires"]]
    optional = project["project"]["optional-dependencies"]
    texts = [*project["project"]["dependencies"], *(text for extra in lock.extras for text in optional[extra])]
    return [Requirement(text) for text in texts]


def entries(text: str) -> Iterator[tuple[Requirement, int]]:
    """The requirements of a lock, each with the number of its hashes.

    Raises:
        ValueError: an entry that pip would not take with ``--require-hashes``, or that is not pinned.
    """
    lines = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    for entry in re.split(r"\n(?! )", lines.strip()):
        found = _HASHES.search(entry)
        if found is None or found.end() < len(entry):
            raise ValueError(f"no hashes: {entry.partition(chr(10))[0]}" if entry else "it is empty")
        requirement = Requirement(entry[:found.start()])
        if [each.operator for each in requirement.specifier] != ["=="]:
            raise ValueError(f"not one version: {requirement}")
        yield requirement, entry.count("--hash=")


def problems(lock: Lock, text: str, constraints: str) -> list[str]:
    """What is wrong with a lock, of packages that are installed on Linux; nothing where it is in step."""
    try:
        pinned = {
            canonicalize_name(each.name): next(iter(each.specifier)).version for each, _ in entries(text)
            if each.marker is None or each.marker.evaluate({"sys_platform": "linux"})
        }
    except ValueError as error:
        return [str(error)]
    listed = dict(line.split("==", 1) for line in constraints.splitlines() if "==" in line and line[0] != "#")
    wrong = [
        f"{name} {version}: {listed.get(name, 'not')} in constraints.txt" for name, version in pinned.items()
        if listed.get(name, version if lock.others else "not") != version
    ]
    wrong += [
        f"{each}: {pinned.get(canonicalize_name(each.name), 'missing')}" for each in asked(lock)
        if pinned.get(canonicalize_name(each.name), "0.dev0") not in each.specifier
    ]
    if lock.extras == server_packages.EXTRAS:
        needed = set(server_packages.packages())
        wrong += [f"{name}: installed with {', '.join(lock.extras)}, and missing" for name in needed - set(pinned)]
        wrong += [f"{name}: not installed with {', '.join(lock.extras)}" for name in set(pinned) - needed]
    return wrong


def write(uv: str, lock: Lock) -> None:
    """Resolve a lock, and ask for a wheel of everything in it for each platform.

    Raises:
        subprocess.CalledProcessError: it cannot be resolved, or a platform has no wheel of something.
    """
    FOLDER.mkdir(exist_ok=True)
    # Whatever index this machine is set up to ask: hashes are those of the files that everybody gets.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
    environment["UV_SYSTEM_CERTS"] = "1"
    of_index = [
        "--no-config", "--quiet", "--default-index", INDEX, "--only-binary", ":all:", "--python-version", PYTHON,
    ]
    with tempfile.TemporaryDirectory() as empty:
        source, resolved = Path(empty, "requirements.in"), Path(empty, "resolved.txt")
        source.write_text("".join(f"{each}\n" for each in asked(lock)), encoding="utf-8")
        subprocess.run(
            [uv, "pip", "compile", str(source), "--constraints", str(ROOT / "constraints.txt"), "--universal",
             "--generate-hashes", "--no-header", "--no-annotate", "--output-file", str(resolved), *of_index],
            env=environment, check=True,
        )
        for platform in PLATFORMS:
            subprocess.run(
                [uv, "pip", "install", "--dry-run", "--require-hashes", "--target", str(Path(empty, "target")),
                 "--python-platform", platform, "--requirements", str(resolved), *of_index],
                env=environment, check=True,
            )
        text = _HEADER.format(what=lock.what, python=PYTHON) + resolved.read_text(encoding="utf-8")
    lock.path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the locks, or say what is wrong with them."""
    if arguments[:1] == ["--write"]:
        for lock in LOCKS:
            write(arguments[1], lock)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    wrong = []
    for lock in LOCKS:
        text = lock.path.read_text(encoding="utf-8") if lock.path.is_file() else ""
        wrong += [f"{lock.path.relative_to(ROOT)}: {each}" for each in problems(lock, text, constraints)]
    print("\n".join([*wrong, "run make locks"] if wrong else [f"{len(LOCKS)} locks are in step"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
