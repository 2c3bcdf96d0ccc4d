"""What serving adds to the engine, and what a step of the engine costs.

    overhead.py unary BUNDLE        one request alone: gRPC beside in-process, in ms
    overhead.py saturation BUNDLE   64 clients: processor time outside the engine
    overhead.py step BUNDLE         step time by rows, valid length and capacity
"""

import argparse
import sys
from pathlib import Path

import saturation
import step_cost
import unary
from machine import facts
from workload import THREADS


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
    given = parser.parse_args()
    if given.what == "unary":
        text = unary.report(unary.measure(given.bundle, given.count, given.threads))
    elif given.what == "saturation":
        text = saturation.report(saturation.measure(given.bundle, given.clients, given.repeats), given.clients)
    else:
        text = step_cost.report(step_cost.measure(given.bundle, given.threads, given.rounds, given.steps))
    print(text)
    print(f"\nMachine: {'; '.join(facts().values())}. Engine: {given.threads} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
