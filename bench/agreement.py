"""Whether the systems computed the same: tokens beside those of Hugging Face, and how close the differing ones were."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqserve_server.local import LocalModel
from worker import Sources
from workload import Task

REFERENCE = "Hugging Face float32"
TIE = 2e-4  # between the two best logits: twice the error that a bundle may have


@dataclass(frozen=True)
class Agreement:
    """One system beside the reference. ``gaps`` are the logits between the best two where sources first differ."""

    system: str
    sources: int
    equal: int
    gaps: tuple[float, ...]

    @property
    def explained(self) -> bool:
        """Whether every difference is a tie."""
        return all(gap < TIE for gap in self.gaps)

    @property
    def text(self) -> str:
        """One line."""
        line = f"{self.system}: {self.equal} of {self.sources} sources decode to the tokens of {REFERENCE}."
        if self.gaps:
            line += f" Logits between the best two where they first differ: {', '.join(f'{g:.1e}' for g in self.gaps)}."
        return line

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def compare(outputs: dict[str, Sources], contents: Sources, bundle: Path, task: Task) -> list[Agreement]:
    """Every system beside the reference."""
    if task.natural:  # where one ends and another goes on, the end token is what differs
        outputs = {name: [task.complete(output) for output in found] for name, found in outputs.items()}
    expected = outputs[REFERENCE]
    with LocalModel.open(bundle) as model:
        return [
            Agreement(
                name, len(expected), sum(a == b for a, b in zip(expected, found, strict=True)),
                tuple(
                    top_gap(model, task.complete(content), first_difference(a, b))
                    for content, a, b in zip(contents, expected, found, strict=True) if a != b
                ),
            )
            for name, found in outputs.items() if name != REFERENCE
        ]


def first_difference(expected: Sequence[int], found: Sequence[int]) -> list[int]:
    """The expected tokens up to the first that differs, that one included."""
    place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), len(found))
    return list(expected[: place + 1])


def top_gap(model: LocalModel, source: Sequence[int], target: Sequence[int]) -> float:
    """Difference of the two largest logits at the last position of ``target``."""
    second, first = np.partition(model.step_logits(source, target)[-1], -2)[-2:]
    return float(first - second)
