"""The worker's side of the benchmark's protocol: one JSON object per line on stdin, one per line on stdout.

Every system runs in a process of its own, in an environment of its own, so this file uses the standard library only.
Out: ``{"system", "versions", "settings"}`` once it is ready. In: ``{"batches": [[[id, ...], ...], ...]}``, batches of
one size with content ids, the end token not among them. Out: ``{"seconds", "token_ids"}``, the content of all answers
in order.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

Sources = list[list[int]]


@dataclass(frozen=True)
class Turn:
    """What one command measured: wall seconds of all batches, and the token ids of all answers in order."""

    seconds: float
    token_ids: Sources


Run = Callable[[list[Sources]], Turn]


def closed_batches(translate: Callable[[Sources], Sources]) -> Run:
    """Decode one batch after the other."""

    def run(batches: list[Sources]) -> Turn:
        outputs: Sources = []
        begun = time.perf_counter()
        for sources in batches:
            outputs += translate(sources)
        return Turn(time.perf_counter() - begun, outputs)

    return run


def serve(system: str, versions: dict[str, str], settings: str, run: Run) -> int:
    """Answer commands until stdin ends."""
    # Libraries print where they like; the protocol keeps the real stdout to itself.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, object]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    say({"system": system, "versions": versions, "settings": settings})
    for line in sys.stdin:
        turn = run(json.loads(line)["batches"])
        say({"seconds": turn.seconds, "token_ids": turn.token_ids})
    return 0
