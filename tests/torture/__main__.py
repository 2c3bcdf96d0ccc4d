"""``make torture``: every row in full, or a part of it with --scale, as a table for docs/reliability.md."""

import argparse
import asyncio
import logging
import sys
import time

from torture import bundles, callers, faults, garbage, hostile, losses, poison, restarts, slots, swaps, vanishing

ROWS = {
    "cancels": (callers.cancels, 100_000),
    "resets": (vanishing.resets, 10_000),
    "client_kills": (vanishing.client_kills, 1_000),
    "black_holes": (vanishing.black_holes, 100),
    "deadlines": (callers.deadlines, 10_000),
    "parsed": (garbage.parsed, 10_000_000),
    "sent": (garbage.sent, 1_000_000),
    "connections": (hostile.connections, 1_000_000),
    "readers": (garbage.readers, 1_000),
    "step_faults": (faults.step_faults, 10_000),
    "reused_slots": (slots.reused_slots, 10_000),
    "kills": (losses.kills, 1_000),
    "hangs": (losses.hangs, 200),
    "poison": (poison.poison, 100),
    "swaps": (swaps.swaps, 1_000),
    "swap_memory": (swaps.swap_memory, 200),
    "bundles": (bundles.bundles, 100_000),
    "restarts": (restarts.restarts, 100),
}


def main() -> int:
    """Run rows, print a line each; 1 where one of them broke."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; all of them by default")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full counts (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    logging.disable()  # thousands of faults are thousands of tracebacks
    broken = 0
    print("| row | count | result | seconds |\n|---|---|---|---|")  # noqa: T201
    for name in given.rows or ROWS:
        row, full = ROWS[name]
        count, begun = max(1, round(full * given.scale)), time.monotonic()
        try:
            told = asyncio.run(row(count))
        except Exception as error:  # noqa: BLE001 - the other rows are run all the same
            told, broken = f"**BROKEN**: {type(error).__name__}: {' '.join(str(error).split())[:300]}", broken + 1
        print(f"| {name} | {count} | {told} | {time.monotonic() - begun:.1f} |", flush=True)  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
