"""Greedy choice: the most probable token, the end token excepted while a row is below its minimum length."""

import math
from collections.abc import Sequence

from seqserve_server.decoding.choice import Choice
from seqserve_server.engine import Candidates

CANDIDATES = 2  # the best, and the one to take when the best is an end token that may not come yet


def choose(
    candidates: Candidates, end_banned: Sequence[int], end_id: int, end_forced: Sequence[int] = ()
) -> Choice:
    """Take each row's best allowed candidate.

    Args:
        candidates: At least 2 per row, best first.
        end_banned: Rows that may not end yet.
        end_id: The end token.
        end_forced: Rows that have to end. There was no choice, so the log-probability is 0 (as in transformers).
    """
    tokens = candidates.token_ids[:, 0].tolist()
    log_probs = candidates.log_probs[:, 0].tolist()
    for row in end_banned:
        if tokens[row] == end_id:
            tokens[row] = int(candidates.token_ids[row, 1])
            log_probs[row] = float(candidates.log_probs[row, 1])
    for row in end_forced:
        if math.isfinite(log_probs[row]):  # a row whose values are not finite has to fail all the same
            tokens[row], log_probs[row] = end_id, 0.0
    return Choice(tokens, log_probs)
