"""What an installed server consists of: ``seqserve[server,otel]``, as in the image, and all that it brings, at the
versions installed here.

    python .ci/server_packages.py                    the list, as a requirements file
    python .ci/server_packages.py --check SBOM       whether a CycloneDX file lists exactly these

The list is what ``make audit`` and ``make sbom`` work on: what development needs besides is no part of a server.
"""

import json
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("server", "otel")


def packages(root: str = "seqserve", extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Names, as the index spells them, and versions of everything that the extras bring; not the root itself."""
    found: dict[str, str] = {}
    waiting = [(root, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        installed = distribution(name)
        if name != root:
            found[canonicalize_name(name)] = installed.version
        for line in installed.requires or ():
            need = Requirement(line)
            chosen = [{"extra": each} for each in wanted] or [{"extra": ""}]
            if need.marker is None or any(need.marker.evaluate(each) for each in chosen):
                waiting.append((need.name, frozenset(need.extras)))
    return dict(sorted(found.items()))


def differences(sbom: Path) -> list[str]:
    """What the file lacks, has too much, or has in another version."""
    listed: dict[str, str] = {
        canonicalize_name(each["name"]): str(each.get("version"))
        for each in json.loads(sbom.read_text(encoding="utf-8")).get("components", ())
    }
    needed = packages()
    return sorted(
        f"{name}: {needed.get(name, 'not needed')} here, {listed.get(name, 'missing')} in the file"
        for name in {*needed, *listed} if needed.get(name) != listed.get(name)
    )


def main(arguments: list[str]) -> int:
    """Print the list, or what is wrong with a file."""
    if arguments[:1] == ["--check"]:
        wrong = differences(Path(arguments[1]))
        print("\n".join(wrong) or f"{arguments[1]}: {len(packages())} packages")
        return 1 if wrong else 0
    print("\n".join(f"{name}=={version}" for name, version in packages().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
