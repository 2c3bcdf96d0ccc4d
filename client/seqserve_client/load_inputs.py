"""What requests hold: the input of the n-th request of a load, by seed and number alone. Pure.

By number, and not drawn one after the other, so that each of several client processes makes its own inputs only.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from seqserve_client.results import ModelInfo

Source = str | list[int]


class Inputs(Protocol):
    """Inputs without end."""

    def at(self, number: int) -> Source:
        """The input of a request; warm-up has numbers below 0."""


@dataclass(frozen=True, slots=True)
class RandomInputs:
    """Random ids.

    Attributes:
        length: Ids of each input.
        low, high: Smallest and largest id.
    """

    seed: int
    length: int
    low: int
    high: int

    @classmethod
    def for_model(cls, seed: int, length: int, model: ModelInfo) -> "RandomInputs":
        """Ids of a vocabulary, without the first few and the last where it is large enough: the special ones."""
        size = model.limits.source_vocab_size
        low, high = (4, size - 2) if size >= 8 else (0, size - 1)
        return cls(seed, length, low, high)

    def at(self, number: int) -> list[int]:
        """See ``Inputs``."""
        generator = random.Random(f"ids {self.seed} {number}")  # noqa: S311 - repeatable, not secret
        return [generator.randint(self.low, self.high) for _ in range(self.length)]


@dataclass(frozen=True, slots=True)
class TextInputs:
    """The texts again and again, each round in another seeded order."""

    seed: int
    texts: Sequence[str]

    def at(self, number: int) -> str:
        """See ``Inputs``."""
        turn, place = divmod(number, len(self.texts))
        return self.texts[_order(self.seed, turn, len(self.texts))[place]]


@lru_cache(maxsize=2)  # the round that is being sent, and the next
def _order(seed: int, turn: int, count: int) -> list[int]:
    return random.Random(f"texts {seed} {turn}").sample(range(count), count)  # noqa: S311
