"""What a proof may not ask of a graph: logits that the rounding of the model's own weights moves further than that.

At some inputs some models magnify rounding a thousandfold, such as a norm behind a product of two nearly orthogonal
vectors (docs/decisions/0020). There two correct computations in float32 differ by more than any limit that would still
find a wrong one elsewhere. So where an error is over the limit, the weights are moved in their last digit, in float64,
and the error is let pass if it is no more than ``FACTOR`` times what that alone does to the same logits.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from seqserve_export import reference
from seqserve_export.model import CanonicalModel

DRAWS = 12  # what is near nought, and magnified, moves by chance
LAST_DIGIT = 2.0**-23  # of float32, relative
# A computation rounds at every operation, and the weights are moved once: measured, it moves up to 4 times as far.
FACTOR = 8.0


@dataclass(frozen=True)
class IllConditioned:
    """A position where the error of the logits is over the limit, and rounding accounts for it.

    Attributes:
        position: In the source's forced target, or in what was decoded of it: two targets, each counted from 0.
        error: Largest difference of its logits between model and bundle.
        moved: Largest difference that moving the model's weights in their last digit makes.
        forced: Whether the position is in the forced target.
    """

    source: int
    position: int
    error: float
    moved: float
    forced: bool


@dataclass
class Conditioning:
    """Of one model, and what was found of it.

    Attributes:
        compared: Positions whose logits were compared, of which ``found`` has some, each once.
    """

    model: CanonicalModel
    tolerance: float
    compared: int = 0
    found: list[IllConditioned] = field(default_factory=list)

    def error(
        self, place: int, actual: NDArray[np.float32], expected: NDArray[np.float32],
        source: Sequence[int], target: Sequence[int], prompt: Sequence[int], *, forced: bool = False,
    ) -> float:
        """Largest error of logits [rows, vocabulary], the last ones of a target, but for ill-conditioned rows.

        Those are noted in ``found``. To be asked once for each target, of which it counts the positions.

        Args:
            place: Of the source among all.
            forced: Whether the target is the source's forced one, and not what was decoded.
        """
        if actual.shape != expected.shape:
            return np.inf
        self.compared += len(expected)
        errors = np.abs(actual - expected).max(axis=-1, initial=0.0)
        return self._counted(place, errors, source, target, prompt, forced=forced)

    def log_prob_error(
        self, place: int, actual: Sequence[float] | NDArray[np.floating],
        expected: Sequence[float] | NDArray[np.floating],
        source: Sequence[int], target: Sequence[int], prompt: Sequence[int],
    ) -> float:
        """The same of log-probabilities [len(target)] of what was decoded, and perhaps of a forced end behind it."""
        if len(actual) != len(expected):
            return np.inf
        errors = np.abs(np.asarray(actual) - np.asarray(expected))
        counted = self._counted(place, errors[: len(target)], source, target, prompt, of_logits=2.0)
        return float(np.max(errors[len(target) :], initial=counted))

    def _counted(
        self, place: int, errors: NDArray[np.floating], source: Sequence[int], target: Sequence[int],
        prompt: Sequence[int], *, forced: bool = False, of_logits: float = 1.0,
    ) -> float:
        """The largest error of the last rows that counts.

        Args:
            of_logits: How much further than logits what is compared may move: log-probabilities twice as far.
        """
        if bool((errors <= self.tolerance).all()):
            return float(errors.max(initial=0.0))
        moved = self.moved(source, target, prompt, len(errors)) * of_logits
        # Comparisons with NaN are false: such a row is counted. So is one without bounds, which no rounding excuses.
        excused = (errors > self.tolerance) & (errors <= FACTOR * moved) & np.isfinite(errors)
        known, first = self.at(place, forced=forced), len(target) - len(errors)
        self.found += [
            IllConditioned(place, first + int(row), float(errors[row]), float(moved[row]), forced)
            for row in np.flatnonzero(excused) if first + int(row) not in known
        ]
        return float(errors[~excused].max(initial=0.0))

    def moved(
        self, source: Sequence[int], target: Sequence[int], prompt: Sequence[int], last: int
    ) -> NDArray[np.float64]:
        """How far each of the last rows of logits moves with the weights' last digits, [last]."""
        def logits(model: CanonicalModel) -> NDArray[np.floating]:
            return reference.step_logits(model, [source], [target], [prompt], last)[0]

        exact, found = logits(copy.deepcopy(self.model).double()), np.zeros(last)
        for seed in range(DRAWS):  # one copy at a time: they are twice as large as the model
            found = np.maximum(found, np.abs(logits(_shaken(self.model, seed)) - exact).max(axis=-1))
        return found

    def at(self, place: int, *, forced: bool) -> dict[int, IllConditioned]:
        """Ill-conditioned positions of a source, in its forced target or in what was decoded."""
        return {each.position: each for each in self.found if (each.source, each.forced) == (place, forced)}


def _shaken(model: CanonicalModel, seed: int) -> CanonicalModel:
    """The model in float64, with every weight up or down by the last digit that float32 has."""
    generator, shaken = torch.Generator().manual_seed(seed), copy.deepcopy(model).double()
    with torch.no_grad():
        for weight in shaken.parameters():
            signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
            weight.mul_(1 + signs.double() * LAST_DIGIT)
    return shaken
