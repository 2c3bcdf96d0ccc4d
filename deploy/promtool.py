"""Check the monitoring files with Prometheus' own tools, and run Prometheus where a script needs one.

    python deploy/promtool.py

The tools are looked for in PATH and in var/tools. Where neither has them and this is a Debian with apt, its package is
fetched and unpacked into var/tools: nothing is installed, no service is started.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "var" / "tools"
RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
MISSING = "promtool is not installed, and apt could not fetch it: rules and alerts were not checked"


def find(name: str) -> Path | None:
    """One of "promtool" and "prometheus", or None where there is none."""
    unpacked = TOOLS / "usr" / "bin" / name
    if found := shutil.which(name):
        return Path(found)
    return unpacked if unpacked.exists() else None


def fetch() -> None:
    """Unpack Debian's package into var/tools, where that is possible."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", "prometheus"], cwd=TOOLS, check=False).returncode:
        return
    for package in TOOLS.glob("prometheus_*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(TOOLS)], check=True)


def found_or_fetched(name: str) -> Path | None:
    """As ``find``, after a try to get it."""
    if find(name) is None:
        fetch()
    return find(name)


def problems(promtool: Path, rules: Path = RULES) -> list[str]:
    """What promtool says of rules and of their tests beside them, where it is not content."""
    found, tests = [], sorted(map(str, rules.parent.glob("rules-test*.yaml")))
    for command in (["check", "rules", str(rules)], ["test", "rules", *tests]):
        done = subprocess.run([str(promtool), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            found.append(f"promtool {' '.join(command)}:\n{done.stdout}{done.stderr}")
    return found


def lint(promtool: Path, page: str) -> str:
    """What promtool says of the names and types on a metrics page; empty where it is content."""
    done = subprocess.run([str(promtool), "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def main() -> int:
    """Check, or say what was left out."""
    promtool = found_or_fetched("promtool")
    if promtool is None:
        print(f"skipped: {MISSING}")
        return 0
    found = problems(promtool)
    print("\n".join(found) if found else f"{RULES.relative_to(ROOT)}: valid, and its tests pass")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
