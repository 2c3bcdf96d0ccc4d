"""Requests through a loop around an engine with faults; the real one on a small bundle."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arithmetic_engine import END
from faulty_engine import FaultyEngine
from seqserve.bundle import read_model
from seqserve_server.capacity import SchedulerLimits
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import Engine
from seqserve_server.loop import Loop
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.request import Event, Finished, Request, Terminal, TokensChosen
from seqserve_server.scheduler import Scheduler

BAD = 150  # a token of the small model's


class Play:
    """Requests through a loop whose engine has faults; sources and settings are given, ids are their places."""

    def __init__(self, engine: Engine, limits: SchedulerLimits) -> None:
        self.faulty = FaultyEngine(engine)
        self.events: list[Event] = []
        self.loop = Loop(self.faulty, Scheduler(limits), self.events.extend)

    def run(self, requests: Sequence[Request], arrivals: Sequence[int] | None = None) -> dict[int, Terminal]:
        """Terminal events; arrivals are numbers of iterations."""
        del self.events[:]
        iteration, busy = 0, True
        while busy or iteration <= max(arrivals or [0]):
            self.loop.submit([
                request for place, request in enumerate(requests) if (arrivals[place] if arrivals else 0) == iteration
            ])
            busy = self.loop.step()
            iteration += 1
        ended = {event.request_id: event for event in self.events if not isinstance(event, TokensChosen)}
        assert len(ended) == sum(not isinstance(event, TokensChosen) for event in self.events) == len(requests)
        return ended


def real(bundle: Path, max_rows: int = 64) -> Play:
    model = read_model(bundle)
    engine = OrtEngine(bundle, model, threads=1, cache_bytes=1 << 26, max_rows=max_rows)
    cost = engine.buffers.cost
    return Play(engine, SchedulerLimits(max_rows, 512, 1 << 26, cost, engine.widths, beams=engine.beams))


def requests(count: int, seed: int, bad: Sequence[int] = (), beams: bool = True) -> list[Request]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        source = [rng.randrange(3, BAD) for _ in range(rng.choice((1, 4, 15, 16, 30)))]
        if number in bad:
            source[rng.randrange(len(source))] = BAD
        width = rng.choice((1, 1, 2, 4, 8)) if beams else 1
        settings = SearchSettings(END, rng.randint(1, 12), beam_size=width, num_hypotheses=width)
        found.append(Request(number, (*source, END), (2,), settings, stream=bool(number % 2)))
    return found


def told(event: Terminal) -> Any:
    """All of an answer, to the last bit."""
    assert isinstance(event, Finished), event
    return event.reason, [(each.token_ids, np.array(each.log_probs).tobytes(), each.score) for each in event.hypotheses]
