"""Whose cross-attention says which source tokens a target token attended to."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Alignment:
    """The mean of heads of one decoder layer.

    Attributes:
        layer, heads: Counted from 0.
        layers: How many there are.
        declared: Whether the source model says so; else it is our choice.
    """

    layer: int
    heads: tuple[int, ...]
    layers: int
    declared: bool

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Alignment":
        """Of what ``model.json`` says.

        Raises:
            ValueError: it is malformed, or there is no such layer.
        """
        if set(value) != {"layer", "heads", "layers", "declared"} or not isinstance(value["heads"], list):
            raise ValueError("not an object of layer, heads (a list), layers and declared")
        read = cls(**{**value, "heads": tuple(value["heads"])})
        integers = (read.layer, read.layers, *read.heads)
        if not all(type(number) is int for number in integers) or not isinstance(read.declared, bool):
            raise ValueError("layer, layers and heads are integers, and declared is true or false")
        if not (0 <= read.layer < read.layers and read.heads and min(read.heads) >= 0):
            raise ValueError(f"layer {read.layer} of {read.layers}, heads {list(read.heads)}: there are no such ones")
        return read

    def __str__(self) -> str:
        heads = f"mean of {len(self.heads)} heads" if len(self.heads) > 1 else f"head {self.heads[0] + 1}"
        by = "" if self.declared else " (not declared by the model)"
        return f"layer {self.layer + 1} of {self.layers}, {heads}{by}"
