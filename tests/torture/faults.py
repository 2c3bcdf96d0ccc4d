"""Row 13: steps that raise."""

import random

from arithmetic_engine import END, ArithmeticEngine
from faulty_engine import FaultyEngine
from hand_loop import HandLoop, make_limits
from pencil_server import BAD_STEP
from seqserve_server.isolation import Isolation
from seqserve_server.request import Failed
from torture.progress import Progress


async def step_faults(count: int, isolation: type[Isolation] = Isolation) -> str:
    """So many runs of the engine that raise; who is not at fault gets its answer, which the hand loop compares."""
    hand, rng = HandLoop(make_limits(max_rows=32), ArithmeticEngine()), random.Random(3)
    faulty = FaultyEngine(hand.engine)
    faulty.bad_step = BAD_STEP
    hand.loop._engine, hand.loop._isolation = faulty, isolation(faulty, most_alone=1 << 30)
    bad: set[int] = set()
    innocent = 0
    progress = Progress("step_faults", count)
    while (before := faulty.raised) < count:
        for place in range(rng.randint(1, 6)):
            guilty = rng.random() < 0.2
            source = [BAD_STEP if guilty else rng.randrange(3, 22), rng.randrange(3, 22), END]
            number = hand.submit(source, rng.randint(1, 12), beams=rng.choice((1, 1, 2, 4)), stream=bool(place % 2))
            if guilty:
                bad.add(number)
        hand.step()
        if rng.random() < 0.05:
            faulty.broken.add(faulty.runs)  # a fault of nobody
        progress.add(faulty.raised - before)
        if len(hand.ended) > 2000:
            innocent += _settle(hand, bad)
    innocent += _settle(hand, bad)
    assert innocent == 0, f"{innocent} innocent requests failed"
    return f"{faulty.raised} runs raised; 0 innocent requests failed, all answers right"


def _settle(hand: HandLoop, bad: set[int]) -> int:
    """Run to the end; how many failed that were not to, and forget them all."""
    hand.run()
    failed = {number for number, event in hand.ended.items() if isinstance(event, Failed)}
    assert failed >= bad & hand.ended.keys(), "a bad request did not fail"
    return len(failed - bad)
