"""The worker's side of the benchmark's protocol: one JSON object per line on stdin, one per line on stdout.

Every system runs in a process of its own, in an environment of its own, so this file uses the standard library only.
Out: ``{"system", "versions", "settings"}`` once it is ready. In: ``{"sources": [[id, ...], ...], "repeats": n}``, with
content ids, the end token not among them. Out: ``{"seconds", "token_ids"}``, the tokens those of the last repeat.
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
    """What one command measured: wall seconds of all repeats, and the last repeat's token ids."""

    seconds: float
    token_ids: Sources


Run = Callable[[Sources, int], Turn]


def closed_batches(translate: Callable[[Sources], Sources]) -> Run:
    """Decode the same batch ``repeats`` times, one after the other."""

    def run(sources: Sources, repeats: int) -> Turn:
        outputs: Sources = []
        begun = time.perf_counter()
        for _ in range(repeats):
            outputs = translate(sources)
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
        command = json.loads(line)
        turn = run(command["sources"], command["repeats"])
        say({"seconds": turn.seconds, "token_ids": turn.token_ids})
    return 0
