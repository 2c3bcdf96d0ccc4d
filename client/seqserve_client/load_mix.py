"""Kinds of requests, and which of them the n-th request of a load is. Pure."""

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request.

    Attributes:
        name: As it was written, such as "unary", "stream", "beam4" or "stream+beam4".
        weight: Its part of all requests, in proportion to those of the other kinds.
        stream: Whether it is streamed, which alone shows when tokens arrive.
        beam_size: Beams that it asks for, or None for what all requests ask for.
    """

    name: str
    weight: float = 1.0
    stream: bool = False
    beam_size: int | None = None

    @classmethod
    def named(cls, name: str, weight: float = 1.0) -> "Kind":
        """The kind of a name.

        Raises:
            ValueError: nothing is called so.
        """
        found = re.fullmatch(r"(unary|stream)|(?:(unary|stream)\+)?beam([1-9]\d{0,3})", name)
        if found is None:
            raise ValueError(f"{name!r} is not unary, stream, beamN, or unary or stream with +beamN")
        return cls(name, weight, "stream" in found.groups(), int(found[3]) if found[3] else None)


UNARY, STREAM = Kind.named("unary"), Kind.named("stream")


def parse_mix(text: str) -> tuple[Kind, ...]:
    """The kinds of "unary=0.5,stream=0.3,beam4=0.2"; weights need not add up to 1.

    Raises:
        ValueError: with the part that is wrong.
    """
    kinds: list[Kind] = []
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        try:
            weight = float(number) if equals else math.nan
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ValueError(f"{part.strip()!r} is not KIND=WEIGHT with a weight above 0")
        if name in [kind.name for kind in kinds]:
            raise ValueError(f"{name} comes twice")
        kinds.append(Kind.named(name, weight))
    return tuple(kinds)


def kind_at(seed: int, kinds: Sequence[Kind], number: int) -> Kind:
    """The kind of request ``number``: by seed and number alone, so that client processes agree without asking."""
    if len(kinds) == 1:
        return kinds[0]
    bounds = list(itertools.accumulate(kind.weight for kind in kinds))
    drawn = random.Random(f"kind {seed} {number}").random() * bounds[-1]  # noqa: S311 - repeatable, not secret
    return next(kind for kind, bound in zip(kinds, bounds, strict=True) if drawn < bound or bound == bounds[-1])
