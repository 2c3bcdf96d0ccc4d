"""What length costs: step time and state by generated length, encoder time by source length, for several ways to read.

KV cache (Transformer), retention (RetNet) and GRU decode; self-attention, GRU and a convolution encode. All have the
same width and number of layers and random weights, and run on the server's engine, but for the convolution, which has
no decoder here and runs as a graph alone.

    length_cost.py                 the figure, its table and its JSON
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import length_models
import length_plot
from length_laws import DEGREES, STEP_DEGREES, Costs, fitted, medians, slope
from machine import facts, record
from seqserve.bundle import ModelDescription
from seqserve_server.capacity import Capacity
from seqserve_server.encoder_batch import pack
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.sessions import open_on_cpu
from spread import Spread, table
from step_cost import Case, Stepper
from workload import SEED, THREADS

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = tuple(2**power for power in range(4, 13))  # 16 to 4096
ROWS, SOURCE = 8, 16  # of the steps: rows in one, and tokens of each row's source
ALLOCATED_ROWS = 64  # state is allocated for a power of two of rows; memory that nothing is written to costs nothing
ENCODERS = {"transformer": "self-attention", "recurrent": "GRU"}


def state_bytes(model: ModelDescription, length: int) -> int:
    """What the server allocates for one row's own state at a length; what rows share of their source is left out."""
    buffers = HostBuffers([state for state in model.states if state.scope == "row"], 2**40, (1,))
    buffers.reserve(Capacity(ALLOCATED_ROWS, length, 1, (1,)))
    return buffers.bytes_used // ALLOCATED_ROWS


def encoder(stepper: Stepper) -> Callable[[Sequence[int]], object]:
    """Runs the encoder graph over one source, up to what the decoder reads of it."""
    engine = stepper.engine
    states = [state.name for state in stepper.model.states if state.update == "constant"]
    return lambda ids: engine.run_encoder(pack([tuple(ids)]), states)


def convolution(path: Path, threads: int) -> Callable[[Sequence[int]], object]:
    """The same for the graph that has no bundle."""
    session = open_on_cpu(path, threads)
    return lambda ids: session.run(None, {"ids": np.array(ids, dtype=np.int64)})


def milliseconds(run: Callable[[Sequence[int]], object], length: int, repeats: int) -> list[float]:
    """Of encoding one source of that length; the first run, which allocates, is left out."""
    ids = random.Random(SEED).choices(range(4, 100), k=length)
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run(ids)
        times.append((time.perf_counter() - begun) * 1e3)
    return times[1:]


def measure(
    bundles: dict[str, Path], convolved: Path, lengths: Sequence[int], *, threads: int, rounds: int, repeats: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Costs:
    """Everything in every round, short and long in turns, so that a slow minute hits all of it."""
    steppers = {name: Stepper(bundle, max(lengths), threads) for name, bundle in bundles.items()}
    encoders = {ENCODERS[name]: encoder(stepper) for name, stepper in steppers.items() if name in ENCODERS}
    encoders["convolution"] = convolution(convolved, threads)
    costs = Costs()
    for name, stepper in steppers.items():
        costs.state[name] = {length: state_bytes(stepper.model, length) for length in lengths}
    for number in range(rounds):
        for length in lengths if number % 2 == 0 else reversed(lengths):
            progress(f"round {number + 1} of {rounds}: length {length}")
            for name, stepper in steppers.items():
                case = Case(ROWS, length, SOURCE, max(lengths))
                times = stepper.milliseconds(case, repeats)
                costs.steps.setdefault(name, {}).setdefault(length, []).extend(times)
            for name, run in encoders.items():
                times = milliseconds(run, length, max(1, repeats * 64 // max(length, 64)))
                costs.encodings.setdefault(name, {}).setdefault(length, []).extend(times)
    return costs


def report(costs: Costs, lengths: Sequence[int]) -> str:
    """A table of steps with their state, one of encoders."""
    ends = (lengths[0], lengths[len(lengths) // 2], lengths[-1])
    theory = {0: "O(d^2)", 1: "O(n d)"}
    steps = [
        [name, *(_cell(times[length]) for length in ends), fitted(medians(times), STEP_DEGREES[name]).text(),
         f"{slope(medians(times), lengths):.2f}", theory[STEP_DEGREES[name]],
         *(f"{costs.state[name][length] / 1024:.0f}" for length in (ends[0], ends[-1]))]
        for name, times in costs.steps.items()
    ]
    laws = {"self-attention": "O(n^2 d)", "GRU": "O(n d^2)", "convolution": "O(k n d^2)"}
    encodings = [
        [name, *(_cell(times[length]) for length in ends), fitted(medians(times), DEGREES[name]).text(),
         f"{slope(medians(times), lengths):.2f}", laws[name]]
        for name, times in costs.encodings.items()
    ]
    at = [f"ms at {length}" for length in ends]
    last = f"slope, {lengths[-2]} to {lengths[-1]}"
    memory = [f"KiB of state a row at {length}" for length in (ends[0], ends[-1])]
    return "\n\n".join([
        table([f"a step of {ROWS} rows", *at, "fitted, us", last, "theory", *memory], steps),
        table(["encoding one source", *at, "fitted, us", last, "theory, a layer"], encodings),
    ])


def _cell(times: list[float]) -> str:
    return Spread.of(times).text(2)


def bundles_in(directory: Path, longest: int, progress: Callable[[str], None]) -> dict[str, Path]:
    """A bundle of every architecture, for lengths up to ``longest``."""
    bundles = {}
    for name in length_models.CHECKPOINTS:
        progress(f"exporting {name}")
        bundles[name] = length_models.write_bundle(name, directory, longest)
    return bundles


def show(text: str) -> None:
    """What is being done, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, draw, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=THREADS, help="of every session (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="steps of a case in one round (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/length_cost.png")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/length_cost.json")
    parser.add_argument("--quick", action="store_true", help="a look whether it works")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    lengths = LENGTHS
    if given.quick:
        lengths, given.rounds, given.repeats = LENGTHS[:6], 2, 3
        given.output = given.output.with_stem("length_cost-quick")
        given.plot = given.output.with_suffix(".png")
    with tempfile.TemporaryDirectory(prefix="length_cost") as directory:
        bundles = bundles_in(Path(directory), max(lengths), show)
        costs = measure(
            bundles, length_models.write_convolution(Path(directory) / "convolution.onnx"), lengths,
            threads=given.threads, rounds=given.rounds, repeats=given.repeats, progress=show,
        )
    show("")
    record(given.output, {
        "threads": given.threads, "rows": ROWS, "source": SOURCE, "width": length_models.WIDTH,
        "layers": length_models.LAYERS, "convolved": length_models.CONVOLVED, **costs.to_json(),
    })
    layers, several = length_models.LAYERS, "s" * (given.threads > 1)
    title = f"width {length_models.WIDTH}, {layers} + {layers} layers, {given.threads} thread{several}"
    length_plot.draw(costs, title, given.plot)
    print(report(costs, lengths))
    print(f"\nMachine: {'; '.join(facts().values())}. Sessions: {given.threads} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
