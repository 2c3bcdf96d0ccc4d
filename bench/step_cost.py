"""What a decoder step costs: by rows, by valid length, by hypotheses a source, and by capacity (which it must not).

And what encoding costs, by the sources' length.
"""

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqserve.bundle import read_model
from seqserve_server.capacity import Capacity
from seqserve_server.engine import Changes, Layout, PlaceRelease, RowRelease, Source, StepInput
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.placement import Place, widths_for
from spread import Spread, table
from workload import SEED

CACHE_BYTES, CANDIDATES = 8 * 2**30, 2
BASE_ROWS, BASE_LENGTH, BASE_SOURCE = 32, 24, 20


@dataclass(frozen=True)
class Case:
    """One kind of step. ``length`` counts valid target positions, the step's own included.

    ``beams`` rows are one request's, up to 8.
    """

    rows: int = BASE_ROWS
    length: int = BASE_LENGTH
    source: int = BASE_SOURCE
    capacity: int = 32
    beams: int = 1


SWEEPS: dict[str, list[Case]] = {
    "rows": [Case(rows=rows) for rows in (1, 2, 4, 8, 16, 32, 64)],
    "length": [Case(length=length, capacity=512) for length in (8, 32, 128, 512)],
    "source": [Case(source=source) for source in (8, 32, 128, 512)],
    "beams": [Case(beams=beams, source=128) for beams in (1, 2, 4, 8)],
    "capacity": [Case(capacity=capacity) for capacity in (32, 64, 128, 256, 512)],
}


@dataclass(frozen=True)
class Encoding:
    """One kind of encoder batch: different sources of one length, special tokens included."""

    sources: int
    length: int


# Together at most 512 tokens, since the server encodes no more between two steps unless one source alone is longer.
ENCODINGS = [
    *(Encoding(1, length) for length in (8, 16, 32, 64, 128, 256, 512)),
    *(Encoding(8, length) for length in (8, 16, 32, 64)),
]


@dataclass
class Costs:
    """Milliseconds of every repetition."""

    steps: dict[Case, list[float]] = field(default_factory=dict)
    encodings: dict[Encoding, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Sweep by sweep."""
        return {
            "sweeps": {
                name: [{**asdict(case), "milliseconds": self.steps[case]} for case in cases]
                for name, cases in SWEEPS.items()
            },
            "encodings": [{**asdict(case), "milliseconds": times} for case, times in self.encodings.items()],
        }


class Stepper:
    """An engine whose buffers have one target capacity."""

    def __init__(self, bundle: Path, capacity: int, threads: int) -> None:
        self.model = read_model(bundle)
        self.engine = OrtEngine(
            bundle, self.model, threads=threads, cache_bytes=CACHE_BYTES,
            max_rows=max(case.rows for cases in SWEEPS.values() for case in cases),
        )
        self._capacity = capacity

    def milliseconds(self, case: Case, steps: int) -> list[float]:
        """Fill the rows, then repeat the same step: it writes the same position each time."""
        engine, model = self.engine, self.model
        length = min(case.length, model.max_target_length)
        source = [model.eos_id] * min(case.source, model.max_source_length)
        (width,), requests = widths_for(case.beams, engine.widths), case.rows // case.beams
        counts = tuple(requests if index == width else 0 for index in range(len(engine.widths)))
        places = [Place(width, index) for index in range(requests)]
        engine.reserve(Capacity(case.rows, self._capacity, len(source), counts))
        for index, place in enumerate(places):
            engine.encode([Source(index * case.beams, (place,), source)])
        rows = range(case.rows)
        layout = Layout(
            [width] * case.rows, [row // case.beams for row in rows], [row % case.beams for row in rows], counts
        )
        prompt = model.framing.example().prompt[:1]
        step = StepInput(list(prompt) * case.rows, [length - 1] * case.rows, CANDIDATES, layout)
        times = []
        for _ in range(steps + 1):
            begun = time.perf_counter()
            engine.step(step)
            times.append((time.perf_counter() - begun) * 1e3)
        engine.change(Changes(
            [RowRelease(row, length) for row in rows], [PlaceRelease(place, len(source)) for place in places]
        ))
        return times[1:]

    def encoding_milliseconds(self, case: Encoding, repeats: int) -> list[float]:
        """Encode, release, encode again."""
        engine, model, generator = self.engine, self.model, random.Random(SEED)
        places = [Place(0, index) for index in range(case.sources)]
        counts = tuple(case.sources if index == 0 else 0 for index in range(len(engine.widths)))
        engine.reserve(Capacity(case.sources, self._capacity, case.length, counts))
        sources = [
            Source(row, (place,), [*generator.choices(range(4, model.source_vocab_size - 1), k=case.length - 1),
                                   model.eos_id]) for row, place in enumerate(places)
        ]
        times = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            engine.encode(sources)
            times.append((time.perf_counter() - begun) * 1e3)
            engine.change(Changes([], [PlaceRelease(place, case.length) for place in places]))
        return times[1:]


def measure(bundle: Path, threads: int, rounds: int, steps: int) -> Costs:
    """Every case in every round, so that a slow minute hits all of them."""
    steppers: dict[int, Stepper] = {}
    costs = Costs()
    results = costs.steps
    for number in range(rounds):
        for case in dict.fromkeys(case for cases in SWEEPS.values() for case in cases):
            if case.capacity not in steppers:
                steppers[case.capacity] = Stepper(bundle, case.capacity, threads)
            results.setdefault(case, []).extend(steppers[case.capacity].milliseconds(case, steps))
        stepper = next(iter(steppers.values()))
        for encoding in ENCODINGS:
            if encoding.length <= stepper.model.max_source_length:
                times = stepper.encoding_milliseconds(encoding, max(2, steps // 2))
                costs.encodings.setdefault(encoding, []).extend(times)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return costs


def report(costs: Costs) -> str:
    """One table per sweep, one of the encoder."""
    tables, results = [], costs.steps
    for name, cases in SWEEPS.items():
        rows = [[str(getattr(case, name)), *_cells(results[case], case)] for case in cases]
        tables.append(table([name, "ms a step, median (min - max)", "rows/s"], rows))
    note = (f"Unless the table says otherwise: {BASE_ROWS} rows, {BASE_LENGTH} valid target positions, {BASE_SOURCE} "
            "source tokens (128 in the table of beams), and the smallest capacity that holds them (512 in the table of "
            "lengths).")
    rows = [
        [str(case.sources), str(case.length), spread.text(2), f"{case.sources * case.length / spread.median * 1e3:.0f}"]
        for case, times in costs.encodings.items() for spread in [Spread.of(times)]
    ]
    encoder = table(["sources encoded together", "tokens of each", "ms, median (min - max)", "source tokens/s"], rows)
    return "\n\n".join([*tables, note, encoder])


def _cells(milliseconds: Sequence[float], case: Case) -> list[str]:
    spread = Spread.of(milliseconds)
    return [spread.text(2), f"{case.rows / spread.median * 1e3:.0f}"]
