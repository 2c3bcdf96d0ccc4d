"""Sequences found in one that grows, looking at each new item once (Knuth, Morris and Pratt 1977)."""

from collections.abc import Sequence


def failures(pattern: Sequence[object]) -> tuple[int, ...]:
    """For each length of a beginning of it, minus one: the longest shorter beginning that this one ends with."""
    table = [0]
    for item in pattern[1:]:
        length = table[-1]
        while length and pattern[length] != item:
            length = table[length - 1]
        table.append(length + (pattern[length] == item))
    return tuple(table)


def matched(pattern: Sequence[object], table: Sequence[int], length: int, item: object) -> int:
    """How much of a pattern stands at the end with an item more, where it was ``length``, which is less than all."""
    while length and pattern[length] != item:
        length = table[length - 1]
    return length + (pattern[length] == item)
