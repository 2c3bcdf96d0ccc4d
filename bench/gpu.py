"""Everything that only a GPU can tell, in one go: is it right beside the CPU in float32, and how fast is it.

    python bench/gpu.py [--work var/gpu] [--only memory parity steps ...] [--models demo marian t5-small]
    python bench/gpu.py --dry

Where ``onnxruntime-gpu`` (``seqserve[server-gpu]``), the export's packages and a CUDA device are. Prints Markdown; into
``$OUT``, if set, go ``gpu.md`` and ``gpu.json``. What fails is reported with its error, and the rest goes on. ``--dry``
runs all of it on the CPU, over the twin of a device's memory and tiny models, to see that the program works.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_models
import gpu_peers
import gpu_work
from machine import facts

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "cuda-bindings", "torch", "transformers", "ctranslate2", "numpy")


@dataclass
class Record:
    """What was found, by part and model; what failed, with its last lines."""

    machine: dict[str, str]
    found: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, part: Callable[[], Any], *, optional: bool = False) -> Any:
        """One part, whatever becomes of it. An optional one may need what is not installed."""
        begun = time.perf_counter()
        try:
            result = part()
        except Exception as error:  # noqa: BLE001 - the next part may still tell something
            if optional and isinstance(error, ModuleNotFoundError):
                self.found[name] = f"{error.name} is not installed"
                return None
            self.failed[name] = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
            print(f"  {name}: FAILED\n{self.failed[name]}", flush=True)
            return None
        self.found[name] = result
        print(f"  {name}: {time.perf_counter() - begun:.1f} s", flush=True)
        return result

    def markdown(self) -> str:
        """Tables of all that was found."""
        lines = ["# On a GPU", "", *(f"- {name}: {value}" for name, value in self.machine.items()), ""]
        for name, value in self.found.items():
            lines += [f"## {name}", "", *_table(value), ""]
        if self.failed:
            lines += ["## Failed", ""]
            for name, text in self.failed.items():
                lines += [f"### {name}", "", "```", text.rstrip(), "```", ""]
        return "\n".join(lines)

    def save(self) -> None:
        """Where the environment says."""
        if out := os.environ.get("OUT"):
            directory = Path(out)
            (directory / "gpu.md").write_text(self.markdown())
            content = {"machine": self.machine, "found": self.found, "failed": self.failed}
            (directory / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")


def _table(value: Any) -> Iterator[str]:
    """A list of rows as a table, anything else as a list of its entries."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        heads = list(dict.fromkeys(name for row in value for name in row))
        yield f"| {' | '.join(heads)} |"
        yield f"|{'---|' * len(heads)}"
        for row in value:
            yield f"| {' | '.join(_cell(row.get(name, '')) for name in heads)} |"
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield f"- {name}: {_cell(entry)}"
    else:
        yield _cell(value)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine(dry: bool) -> dict[str, str]:
    """The machine and the versions."""
    found = facts()
    if dry:
        found["device"] = "NONE: a dry run on the CPU; no figure means anything"
    else:
        query = "--query-gpu=name,driver_version,memory.total"
        asked = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
        found["device"] = asked.stdout.strip().replace("\n", "; ")
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure(record: Record, bundles: gpu_models.Bundles, name: str, wanted: set[str], dry: bool) -> None:
    """All parts of one model, on one engine after the other: captured, then eager."""
    sizes = gpu_work.Sizes.tiny() if dry else gpu_work.Sizes()
    if wanted & {"parity", "serving"}:
        local = record.run(f"{name}: open", lambda: gpu_work.Opened.of(bundles, sizes, dry=dry))
        if local is not None:
            record.found[f"{name}: open"] = local.told
            if "parity" in wanted:
                record.run(f"{name}: parity", lambda: gpu_work.parity(local, bundles, sizes))
            if "serving" in wanted:
                record.run(f"{name}: serving", lambda: gpu_work.serving(local, sizes))
        del local
    if "steps" in wanted:
        record.run(f"{name}: steps", lambda: gpu_work.steps(bundles, sizes, dry=dry))


def main() -> int:
    """Run what is wanted; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("memory", "parity", "serving", "steps", "peers")
    parser.add_argument("--work", type=Path, default=Path("var/gpu"), help="where models are made, and kept")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--models", nargs="+", choices=gpu_models.NAMES, default=gpu_models.NAMES)
    parser.add_argument("--dry", action="store_true", help="on the CPU, with tiny models: does the program work?")
    given = parser.parse_args()
    wanted, record = set(given.only), Record(machine(given.dry))
    if "memory" in wanted:
        record.run("memory", lambda: gpu_work.memory(dry=given.dry))
    for name in given.models:
        print(name, flush=True)
        bundles = record.run(f"{name}: made", partial(gpu_models.make_bundles, name, given.work, tiny=given.dry))
        if bundles is None:
            continue
        del record.found[f"{name}: made"]
        measure(record, bundles, name, wanted, given.dry)
        record.save()  # should the machine go away, what was found is there
    if "peers" in wanted:
        for peer in gpu_peers.PEERS:
            record.run(f"marian: {peer.__name__}", partial(peer, given.work, dry=given.dry), optional=True)
    print(record.markdown())
    record.save()
    return 1 if record.failed else 0


if __name__ == "__main__":
    sys.exit(main())
