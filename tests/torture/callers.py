"""Rows 3 and 5: callers that go away in every phase of a call, and deadlines of any length."""

import asyncio
import random
from collections import Counter
from typing import Any, cast

import grpc

from arithmetic_engine import ArithmeticEngine
from faulty_engine import FaultyEngine
from seqserve_server.request import Event, Finished, FinishReason, Request, ScoreRequest
from serving import ENDLESS, PENCIL_TEXT, Served, ask, ask_stream, ids, serving
from torture.prober import probing
from torture.progress import Progress
from torture.remains import PATIENCE, expect_no_more, nothing_inside, remains

WAVE = 40
PHASES = ("unsent", "sent", "waiting", "stepping", "streaming", "half of a batch", "answering", "over")


async def _cancelled(served: Served, phase: str) -> None:
    """One wave of calls that are cancelled in a phase."""
    engine, source = served.engine, ids(*ENDLESS)
    held = phase in ("waiting", "stepping", "streaming")
    if held:
        engine.hold()
    steps = len(engine.steps)
    if phase == "streaming":
        engine.allow(3)
    if phase == "half of a batch":
        calls: list[Any] = [served.stub.Generate(ask("c d", source)) for _ in range(WAVE)]
    elif phase in ("answering", "over"):
        calls = [served.stub.Generate(ask("c d")) for _ in range(WAVE)]
    else:
        calls = [served.stub.GenerateStream(ask_stream(source)) for _ in range(WAVE)]
    if phase in ("sent", "half of a batch", "answering"):
        for _ in range(random.randrange(40)):
            await asyncio.sleep(0)
    if held:
        # Or more: of the wave before, a call that was cancelled at once may arrive now, and stays while steps are held.
        await served.until(lambda: served.inside >= WAVE)
        await served.until_stepping()
    if phase == "streaming":
        await served.until(lambda: len(engine.steps) >= steps + 3)
    if phase == "over":
        await asyncio.gather(*calls)
    for call in calls:
        call.cancel()
    codes = set(await asyncio.gather(*(call.code() for call in calls)))
    if held:
        engine.allow()
    allowed = {grpc.StatusCode.OK} if phase == "over" else {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
    assert codes <= allowed, f"{phase}: {codes}"
    await nothing_inside(served, PATIENCE)


async def cancels(count: int) -> str:
    """So many calls, cancelled in eight phases; nothing of them is left."""
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=16, max_waiting=4 * WAVE) as served:
        async with probing(f"127.0.0.1:{served.server.port}") as samples:
            for phase in PHASES:  # once, so that whatever is made once is there
                await _cancelled(served, phase)
            before = await remains(served)
            waves, progress = max(1, count // WAVE), Progress("cancels", count)
            for wave in range(waves):
                async with asyncio.timeout(2 * PATIENCE):
                    await _cancelled(served, PHASES[wave % len(PHASES)])
                assert engine.misuses == []
                progress.add(WAVE)
            await expect_no_more(served, before)
        assert samples.wrong == 0
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    return (f"{waves * WAVE} cancelled, 0 slots, tasks and descriptors left; {samples.taken} health samples, "
            f"{samples.wrong} wrong")


async def deadlines(count: int, step_seconds: float = 0.002) -> str:
    """So many calls with deadlines of 1 to 500 ms."""
    engine = FaultyEngine(ArithmeticEngine())
    engine.seconds = step_seconds
    rng = random.Random(5)
    codes: Counter[grpc.StatusCode] = Counter()
    async with serving(cast(ArithmeticEngine, engine), max_rows=16) as served:
        tap = _Tap(served)
        turn = asyncio.Semaphore(48)

        async def one() -> None:
            async with turn:
                source = "c d" if rng.random() < 0.5 else ids(*ENDLESS)
                call = served.stub.Generate(ask(source), timeout=rng.uniform(0.001, 0.5))
                codes[await call.code()] += 1

        async with probing(f"127.0.0.1:{served.server.port}") as samples:
            await asyncio.gather(*(one() for _ in range(count)))
        async with asyncio.timeout(30):
            await served.until(lambda: served.inside == 0)
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}, codes
    assert samples.wrong == 0
    late, begun = tap.late()
    assert late == 0, f"{late} ended well after their deadlines"
    assert begun == 0, f"{begun} were begun after their deadlines"
    return (f"{codes[grpc.StatusCode.OK]} in time, {codes[grpc.StatusCode.DEADLINE_EXCEEDED]} not; 0 late, 0 begun too "
            f"late; {samples.taken} health samples, {samples.wrong} wrong")


class _Tap:
    """What goes into a loop and what comes out, on the loop's own clock."""

    def __init__(self, served: Served) -> None:
        (serving_,) = served.server.models.servings
        self._loop = serving_.loop
        self.requests: dict[int, Request | ScoreRequest] = {}
        self.ended: list[tuple[int, float, Finished]] = []
        submit, publish = self._loop.submit, self._loop._publish

        def submitted(requests: Any) -> None:
            self.requests.update((request.id, request) for request in requests)
            submit(requests)

        def published(events: list[Event]) -> None:
            now = self._loop._clock()
            self.ended += [(event.request_id, now, event) for event in events if isinstance(event, Finished)]
            publish(events)

        vars(self._loop).update(submit=submitted, _publish=published)

    def late(self, step_seconds: float = 0.1) -> tuple[int, int]:
        """How many ended well more than a step after their deadline, and how many were begun after it."""
        late = begun = 0
        for number, _, event in self.ended:
            deadline = self.requests[number].deadline
            if deadline is None:
                continue
            times = event.times
            whole = event.reason in (FinishReason.EOS, FinishReason.LENGTH)
            late += whole and times.ended is not None and times.ended > deadline + step_seconds
            begun += times.admitted is not None and times.admitted > deadline
        return late, begun
