"""The program that measures on a GPU, tried out where there is none: all of its parts run, and it says what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_dry_run_goes_through_every_part_and_says_that_no_figure_means_anything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "bench/gpu.py", "--dry", "--models", "marian", "--work", str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OUT": str(out)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((out / "gpu.json").read_text())
    assert content["failed"] == {}
    assert content["machine"]["device"].startswith("NONE: a dry run on the CPU")
    assert set(content["found"]) == {
        "memory", "marian: open", "marian: parity", "marian: serving", "marian: steps", "marian: ctranslate2",
        "marian: transformers", "marian: pytorch",
    }
    parity = {row["what"]: row["value"] for row in content["found"]["marian: parity"]}
    assert parity["logits, all finite"] is True
    assert parity["logits, largest error over deviation"] < 0.05
    assert parity["greedy: the same tokens alone and in a batch"] == 2
    assert (out / "gpu.md").read_text() in done.stdout
