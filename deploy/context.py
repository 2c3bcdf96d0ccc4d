"""Copy what ``docker build`` would send: the repository without what .dockerignore leaves out.

    python deploy/context.py DIRECTORY

A wheel built from there shows that the image has everything that it is built from, without a container engine.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MADE = ("__pycache__", "*.so.1")  # left out wherever they lie


def allowed(ignore: str) -> list[str]:
    """Paths that an allow-list lets through.

    Raises:
        ValueError: on a line that is neither ``!PATH`` nor one of ``MADE``; no other patterns are understood here.
    """
    lines = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    if lines[:1] != ["*"]:
        raise ValueError(".dockerignore: the first line must be *, so that only what is named gets in")
    paths = []
    for line in lines[1:]:
        if line.startswith("!") and "*" not in line:
            paths.append(line[1:])
        elif line.removeprefix("**/") not in MADE:
            raise ValueError(f".dockerignore: {line!r} is neither !PATH nor one of **/{', **/'.join(MADE)}")
    return paths


def copy_context(target: Path) -> None:
    """Make ``target`` anew."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in allowed((ROOT / ".dockerignore").read_text(encoding="utf-8")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(*MADE))
        else:
            shutil.copy2(source, target / name)


if __name__ == "__main__":
    copy_context(Path(sys.argv[1]))
