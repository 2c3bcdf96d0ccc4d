"""What a decoding rule returns for one step."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """The tokens that rows go on with.

    Attributes:
        tokens: Chosen token of every row.
        log_probs: Its log-probability.
        parents: Row whose state each row continues (beam search permutes), or None for "its own".
    """

    tokens: list[int]
    log_probs: list[float]
    parents: list[int] | None = None
