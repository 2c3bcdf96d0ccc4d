"""Some rows of a step as a step of their own. Values in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqserve_server.engine import Layout, StepInput


@dataclass(frozen=True, slots=True)
class StepPart:
    """A step over rows 0 .. n-1 that stand for others.

    Attributes:
        step: With rows and places numbered anew.
        rows: Which row each of its rows stands for.
        places: Of each width, which place each of its places stands for.
    """

    step: StepInput
    rows: Sequence[int]
    places: Sequence[Sequence[int]]


def part_of(step: StepInput, rows: Sequence[int]) -> StepPart:
    """The part of a step that some rows are, in ascending order: in some graphs row i reads place i, and no other."""
    rows, layout = sorted(rows), step.layout
    places = [
        sorted({layout.places[row] for row in rows if layout.widths[row] == width})
        for width in range(len(layout.counts))
    ]
    numbers = [{place: number for number, place in enumerate(those)} for those in places]
    own = Layout(
        [layout.widths[row] for row in rows],
        [numbers[layout.widths[row]][layout.places[row]] for row in rows],
        [layout.offsets[row] for row in rows],
        [len(those) for those in places],
    )
    tokens, positions = [step.tokens[row] for row in rows], [step.positions[row] for row in rows]
    return StepPart(replace(step, tokens=tokens, positions=positions, layout=own), rows, places)
