"""What serving adds to the engine, and what a step of the engine costs.

    overhead.py unary BUNDLE        one request alone: gRPC beside in-process, in ms
    overhead.py saturation BUNDLE   64 clients: processor time outside the engine
    overhead.py step BUNDLE         step time by rows, valid length and capacity; encoder time by length
"""

import argparse
import sys
from pathlib import Path

import saturation
import step_cost
import step_plot
import unary
from machine import facts, record
from workload import THREADS

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run one of the three and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("unary", "saturation", "step"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS, help="of the engine (unary, step)")
    parser.add_argument("--count", type=int, default=200, help="calls each way (unary)")
    parser.add_argument("--clients", type=int, default=64, help="(saturation)")
    parser.add_argument("--repeats", type=int, default=10, help="calls of each client (saturation)")
    parser.add_argument("--rounds", type=int, default=5, help="(step)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a case in one round (step)")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/step_time.png", help="(step)")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/step_time.json", help="(step)")
    parser.add_argument("--quick", action="store_true", help="a look whether it works")
    given = parser.parse_args()
    if given.quick:
        given.count, given.repeats, given.rounds, given.steps = 10, 1, 1, 4
        given.output = given.output.with_stem("step_time-quick")
        given.plot = given.output.with_suffix(".png")
    if given.what == "unary":
        text = unary.report(unary.measure(given.bundle, given.count, given.threads))
    elif given.what == "saturation":
        text = saturation.report(saturation.measure(given.bundle, given.clients, given.repeats), given.clients)
    else:
        costs = step_cost.measure(given.bundle, given.threads, given.rounds, given.steps)
        text = step_cost.report(costs)
        record(given.output, {"bundle": str(given.bundle), "threads": given.threads, **costs.to_json()})
        step_plot.draw(costs, given.bundle.name, given.plot)
    print(text)
    print(f"\nMachine: {'; '.join(facts().values())}. Engine: {given.threads} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
