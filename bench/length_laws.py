"""How time grows with length: the laws that theory names, fitted, and slopes on logarithmic axes, which need none.

Per layer of width d over n tokens ("Attention Is All You Need", table 1): self-attention takes O(n^2 d), a recurrent
layer O(n d^2), a convolution of k tokens O(k n d^2). One more token takes attention over a KV cache O(n d), and what
keeps a state of fixed size O(d^2). Beside those stand the projections of attention and its feed-forward layer,
O(n d^2), and what a call costs at no length at all: so each law has the lower powers of n too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spread import Spread

DEGREES = {"self-attention": 2, "GRU": 1, "convolution": 1}  # of the encoder
STEP_DEGREES = {"transformer": 1, "retention": 0, "recurrent": 0}
Times = dict[str, dict[int, list[float]]]


@dataclass
class Costs:
    """Milliseconds of every repetition by what was measured and length, and bytes of state a row."""

    steps: Times = field(default_factory=dict)
    state: dict[str, dict[int, int]] = field(default_factory=dict)
    encodings: Times = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """With the laws, as coefficients of rising powers."""
        return {
            "step_milliseconds": self.steps, "state_bytes_a_row": self.state, "encoder_milliseconds": self.encodings,
            "step_laws": {name: fitted(medians(times), STEP_DEGREES[name]).coefficients
                          for name, times in self.steps.items()},
            "encoder_laws": {name: fitted(medians(times), DEGREES[name]).coefficients
                             for name, times in self.encodings.items()},
        }


def medians(times: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """By length."""
    return {length: Spread.of(values).median for length, values in sorted(times.items())}


@dataclass(frozen=True)
class Law:
    """Milliseconds at length n: the sum of ``coefficients[i] * n**i``, none of them negative."""

    coefficients: tuple[float, ...]

    def at(self, length: float) -> float:
        """Milliseconds."""
        return sum(coefficient * length**power for power, coefficient in enumerate(self.coefficients))

    def text(self) -> str:
        """In microseconds, for a table."""
        names = ("", " n", " n^2")
        terms = [f"{coefficient * 1e3:.3g}{names[power]}" for power, coefficient in enumerate(self.coefficients)
                 if coefficient]
        return " + ".join(terms) or "0"


def fitted(medians: Mapping[int, float], degree: int) -> Law:
    """By least squares of relative errors, as points count alike on logarithmic axes; at most one power a point."""
    lengths, times = np.array(list(medians), dtype=np.float64), np.array(list(medians.values()))
    powers = list(range(min(degree, len(lengths) - 1) + 1))
    while True:
        columns = np.stack([lengths**power for power in powers], axis=1) / times[:, None]
        found = np.linalg.lstsq(columns, np.ones(len(times)), rcond=None)[0]
        if found.min() >= 0 or len(powers) == 1:
            break
        powers.pop(int(found.argmin()))  # a cost cannot be negative: that power has none
    coefficients = [0.0] * (degree + 1)
    for power, coefficient in zip(powers, found, strict=True):
        coefficients[power] = max(float(coefficient), 0.0)
    return Law(tuple(coefficients))


def slope(medians: Mapping[int, float], lengths: Sequence[int]) -> float:
    """Between the last two of ``lengths`` on logarithmic axes: 1 where twice the length takes twice the time."""
    first, last = lengths[-2:]
    return math.log(medians[last] / medians[first]) / math.log(last / first)
