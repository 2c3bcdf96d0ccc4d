"""Hold a wheel against the sources it was built from: the same files with the same content, and what is compiled.

    python .ci/wheel.py WHEEL

What is missing of a wheel shows nowhere in a checkout, where an editable install reads the sources. Compared byte by
byte, nothing can be missing that no test happens to read.
"""

import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILED = "seqserve_server/kernels/libseqserve_kernels.so.1"  # as hatch_build.py names it; from server/native
METADATA = ".dist-info/"


def packages() -> list[Path]:
    """Directories of the packages that pyproject.toml says are in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [ROOT / each for each in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def sources() -> dict[str, bytes]:
    """Content by the name that a file has in the wheel; what is compiled or cached beside the sources is no source."""
    found = {}
    for package in packages():
        for path in package.rglob("*"):
            name = path.relative_to(package.parent).as_posix()
            if path.is_file() and "__pycache__" not in path.parts and name != COMPILED:
                found[name] = path.read_bytes()
    return found


def differences(wheel: Path) -> list[str]:
    """What the wheel lacks, has too much, or has otherwise."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if METADATA not in name}
    wanted = sources()
    wrong = [f"{name}: not in the wheel" for name in wanted.keys() - packed.keys()]
    wrong += [f"{name}: in the wheel, and no source" for name in packed.keys() - wanted.keys() - {COMPILED}]
    both = wanted.keys() & packed.keys()
    wrong += [f"{name}: not the source's content" for name in both if wanted[name] != packed[name]]
    if COMPILED not in packed and sys.platform == "linux":
        wrong.append(f"{COMPILED}: not in the wheel")
    return sorted(wrong)


def main(arguments: list[str]) -> int:
    """Print what is wrong."""
    wheel = Path(arguments[0])
    wrong = differences(wheel)
    print("\n".join(wrong) or f"{wheel.name}: {len(sources())} files, each as its source")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
