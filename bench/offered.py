"""What is offered to a server and what came of it: the generator's process as its user sees it, and its figures."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multi30k import sentences
from processes import Process, Server, running
from seqserve_client.load import Load
from seqserve_client.load_inputs import Source
from seqserve_client.report import Sample, percentile
from workload import NEW_TOKENS, contents

TIMEOUT = 120.0
SENT = ("rate", "concurrency", "requests", "duration", "warmup", "seed")  # of a load; the rest are defaults


@dataclass(frozen=True)
class Requests:
    """What requests ask for: sources, taken in seeded orders, and options for all of them."""

    sources: Sequence[Source]
    options: dict[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT

    @classmethod
    def of_random_model(cls, count: int = 1000) -> "Requests":
        """Ids of the benchmark's length, and its forced number of new tokens."""
        return cls(contents(count), {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "beam_size": 1})

    @classmethod
    def of_sentences(cls, data: Path) -> "Requests":
        """Sentences of test_2016, whose answers end by themselves."""
        return cls(sentences(data, "en"), {"beam_size": 1})


@dataclass(frozen=True)
class Outcome:
    """What one load came to.

    Attributes:
        samples: One per request, in the order of ends.
        processor_seconds: Of the generator.
        seconds: Wall time, warm-up included.
    """

    samples: list[Sample]
    processor_seconds: float
    seconds: float

    @property
    def answered(self) -> list[Sample]:
        """Those without an error."""
        return [sample for sample in self.samples if sample.error is None]

    @property
    def errors(self) -> Counter[str]:
        """How many of each status code."""
        return Counter(sample.error for sample in self.samples if sample.error is not None)

    def latencies(self) -> list[float]:
        """Milliseconds from the intended time to the answer, ascending."""
        return sorted((sample.ended - sample.intended) * 1e3 for sample in self.answered)

    def refusals(self) -> list[float]:
        """Milliseconds from the sending to the error, ascending."""
        return sorted((sample.ended - sample.sent) * 1e3 for sample in self.samples if sample.error is not None)

    def completed_per_second(self, begin: float, end: float, within_ms: float) -> float:
        """Answers of at most ``within_ms`` that came between two times after the start."""
        return sum(
            begin <= sample.ended < end and (sample.ended - sample.intended) * 1e3 <= within_ms
            for sample in self.answered
        ) / (end - begin)


class Generator:
    """The running generator."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def drive(self, server: Server, load: Load, requests: Requests) -> Outcome:
        """Offer a load and wait for every end."""
        self.process.write_line(json.dumps({
            "target": server.target, "timeout": requests.timeout,
            "load": {name: getattr(load, name) for name in SENT},
            "sources": requests.sources, "options": requests.options,
        }))
        answer = json.loads(self.process.read_line())
        samples = [
            Sample(intended, sent, ended, output_tokens=tokens, error=error)
            for intended, sent, ended, tokens, error in answer["samples"]
        ]
        return Outcome(samples, answer["processor_seconds"], answer["seconds"])


@contextlib.contextmanager
def running_generator(module: str = "ours.generator") -> Iterator[Generator]:
    """One that ends with the block; ``ours.light_generator`` where its own cost would be part of the result."""
    with running([sys.executable, "-m", module]) as process:
        yield Generator(process)


def percentiles(ordered: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 of ascending values; None of none."""
    return {f"p{percent}": percentile(ordered, percent) if ordered else None for percent in (50, 95, 99)}


def rounded(value: float | None, digits: int = 0) -> str:
    """For a table cell."""
    return "" if value is None else f"{value:.{digits}f}"
