"""Whether a server is as fast, and as small, after a hundred thousand requests as after two thousand.

    .venv/bin/python bench/endurance.py var/demo-bundle DATA [--count 100000]

Sentences of test_2016 in seeded orders, 64 in flight, one a call. Requests are numbered by their ends; the speed of a
thousand is their generated tokens, end tokens included, by the time from the end before the first of them to the end of
the last. The server keeps its cache of encoded sources, as users run it, unless --no-cache is given.
"""

import argparse
import sys
from pathlib import Path

from machine import facts, record
from offered import Outcome, Requests, running_generator
from processes import running_server
from seqserve_client.load import Load
from spread import Spread, table
from watch import Watch, watching
from workload import THREADS

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT, PART = 64, 1000
CACHE_BYTES = 64 * 2**20  # the server's default


def speeds(outcome: Outcome) -> list[float]:
    """Tokens per second of every whole thousand of answers, in the order of ends; the first one warms up."""
    samples = outcome.answered
    ends = [0.0, *(sample.ended for sample in samples)]
    return [
        sum(sample.output_tokens for sample in samples[first : first + PART]) / (ends[first + PART] - ends[first])
        for first in range(0, len(samples) - PART + 1, PART)
    ]


def report(outcome: Outcome, watch: Watch) -> str:
    """The two thousands, all others beside them, memory."""
    found = speeds(outcome)
    early, late = found[1], found[-1]
    begin, middle, end = (watch.samples[place][1].own for place in (0, len(watch.samples) // 2, -1))
    rows = [
        [f"requests {PART} to {2 * PART}, tokens/s", f"{early:.0f}"],
        [f"the last {PART}, tokens/s", f"{late:.0f} ({late / early:.3f} of the former)"],
        ["every thousand but the first, median (min - max)", Spread.of(found[1:]).text(0)],
        ["first tenth of them, median", f"{Spread.of(found[1 : 1 + max(1, len(found) // 10)]).median:.0f}"],
        ["last tenth, median", f"{Spread.of(found[-max(1, len(found) // 10) :]).median:.0f}"],
        ["answered, failed", f"{len(outcome.answered)}, {sum(outcome.errors.values())}"],
        ["server's own memory at the start, half-way, at the end, MB", f"{begin:.1f}, {middle:.1f}, {end:.1f}"],
        ["generator, cores", f"{outcome.processor_seconds / outcome.seconds:.2f}"],
        ["server, cores", f"{watch.cores:.2f}"],
    ]
    return f"{table(['', ''], rows)}\n\n{watch.markdown(12)}"


def main() -> int:
    """Print the tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en or its .gz")
    parser.add_argument("--count", type=int, default=100_000, help="requests (%(default)s)")
    parser.add_argument("--no-cache", action="store_true", help="keep no encoded sources")
    parser.add_argument("--output", type=Path, default=ROOT / "var/bench/endurance.json")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.count, given.output = 3 * PART, given.output.with_stem("endurance-quick")
    cache = 0 if given.no_cache else CACHE_BYTES
    flags = ("--threads", str(THREADS), "--encoder-cache-bytes", str(cache))  # the later of two equal flags holds
    with running_server(given.bundle, *flags) as server, running_generator() as generator:
        load = Load(concurrency=IN_FLIGHT, requests=given.count)
        with watching(server.process.pid) as watch:
            outcome = generator.drive(server, load, Requests.of_sentences(given.data))
    print(report(outcome, watch))
    print(f"\n{given.bundle.name}, {THREADS} threads, --encoder-cache-bytes {cache}. "
          f"Machine: {'; '.join(facts().values())}.")
    record(given.output, {"tokens_per_second": speeds(outcome), "server": watch.to_json()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
