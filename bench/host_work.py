"""How much of a decoder step the host takes: everything of the loop's step but the runtime itself.

    PYTHONPATH=bench .venv/bin/python bench/host_work.py BUNDLE [--requests 16] [--beam-size 4] [--rounds 5]

Requests run together for as long as all of them are live; the first steps, in which their beams fan out, are left out.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from seqserve_server.decoding.search import SearchSettings
from seqserve_server.local import LocalModel
from seqserve_server.loop import Loop
from seqserve_server.request import Request
from workload import THREADS, complete, contents

WARM_UP, STEPS = 4, 24


class Timed:
    """A session that knows how long its runs took."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and take the time."""
        begun = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self.seconds += time.perf_counter() - begun


def one_round(model: LocalModel, timed: Timed, given: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds of a step in the runtime and beside it."""
    description, scheduler = model.description, model.served.scheduler()
    loop = Loop(model.served.engine, scheduler, publish=lambda _: None)
    search = SearchSettings(
        description.eos_id, WARM_UP + STEPS + 8, min_new_tokens=WARM_UP + STEPS + 8, beam_size=given.beam_size
    )
    prompt = description.framing.example().prompt
    loop.submit([
        Request(number, tuple(complete(content)), prompt, search)
        for number, content in enumerate(contents(given.requests))
    ])
    for _ in range(WARM_UP):
        loop.step()
    timed.seconds, begun = 0.0, time.perf_counter()
    for _ in range(STEPS):
        loop.step()
    whole = time.perf_counter() - begun
    inside = timed.seconds
    for number in range(given.requests):
        loop.cancel([number])
    while loop.step():
        pass
    return 1000 * inside / STEPS, 1000 * (whole - inside) / STEPS


def main() -> int:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    model = LocalModel.open(given.bundle, threads=THREADS)
    engine: Any = model.served.engine
    timed = engine._decoder = Timed(engine._decoder)
    rounds = [one_round(model, timed, given) for _ in range(given.rounds)]
    inside, beside = (statistics.median(each[place] for each in rounds) for place in (0, 1))
    part = beside / (inside + beside)
    print(f"{given.requests} requests of {given.beam_size} beams: a step takes {inside:.2f} ms in the runtime and "
          f"{beside:.2f} ms beside it, {part:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
