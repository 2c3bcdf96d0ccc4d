"""Which operators a decoder step spends its time in, from the runtime's own profile."""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort

from spread import table
from step_cost import BASE_LENGTH, Case, Stepper
from workload import THREADS

WARM_UP = 3


@contextmanager
def profiling(prefix: Path) -> Iterator[list[ort.InferenceSession]]:
    """Sessions opened inside write a profile each, and are in the list; the engine itself has no switch for it."""
    sessions: list[ort.InferenceSession] = []
    plain = ort.InferenceSession

    def opened(path: str, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        options.enable_profiling, options.profile_file_prefix = True, str(prefix)
        sessions.append(plain(path, options, **settings))
        return sessions[-1]

    ort.InferenceSession = opened
    try:
        yield sessions
    finally:
        ort.InferenceSession = plain


def operator_ms(profile: Path, steps: int) -> dict[str, float]:
    """Milliseconds a step by operator: of large products by shape too, mean over the last ``steps`` runs."""
    events: list[dict[str, Any]] = json.loads(profile.read_text())
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[-steps:]
    totals: dict[str, float] = defaultdict(float)
    totals["(whole run)"] = sum(end - begin for begin, end in runs) / 1e3 / steps
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        if event["ts"] >= runs[0][0]:
            totals[_label(event["args"])] += event["dur"] / 1e3 / steps
    return dict(totals)


def _label(arguments: dict[str, Any]) -> str:
    name = str(arguments["op_name"])
    # Weights that were prepacked are no longer among the inputs, so their shape is taken from around them.
    ends = [next(iter(arguments[key][0].values()))[-1:] for key in ("input_type_shape", "output_type_shape")]
    if name in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul"):
        return f"{name} {ends[0][0]}x{ends[1][0]}"
    if name == "GroupQueryAttention":  # self-attention gets queries, keys and values side by side
        return f"{name}, {'cross' if ends[0] == ends[1] else 'self'}"
    return name


def profile(bundle: Path, rows: int, length: int, steps: int, threads: int) -> dict[str, float]:
    """Profile one kind of step."""
    with tempfile.TemporaryDirectory() as directory:
        with profiling(Path(directory) / "step") as sessions:
            stepper = Stepper(bundle, 32, threads)
        stepper.milliseconds(Case(rows=rows, length=length), steps + WARM_UP)
        return operator_ms(Path(sessions[1].end_profiling()), steps)


def main() -> int:
    """Print one table: operators by rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--length", type=int, default=BASE_LENGTH, help="valid target positions")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=THREADS)
    given = parser.parse_args()
    results = {
        rows: profile(given.bundle, rows, given.length, given.steps, given.threads) for rows in given.rows
    }
    last = results[given.rows[-1]]
    names = sorted({name for result in results.values() for name in result}, key=lambda name: -last.get(name, 0.0))
    rows = [[name, *(f"{results[rows].get(name, 0):.3f}" for rows in given.rows)] for name in names]
    print(table(["operator, ms a step", *(f"{rows} rows" for rows in given.rows)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
