"""Row 16: requests that crash the process, sent again and again by clients who try again."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pencil import answer
from pencil_server import KILL, Process, pencil_server
from seqserve_client import AsyncClient, Quarantined, SeqserveError
from torture.progress import Progress

ABREAST = 4  # servers, each with its supervisor and callers
INNOCENT = 6
STEP_SECONDS = 0.005
PATIENCE = 60.0  # of a caller, for all of its attempts
WORDS = [number for number in range(3, 22) if number != KILL]
MOST_RESTARTS = 2
END = 1


class Service:
    """A server that is started anew whenever it has ended, with one journal."""

    def __init__(self, journal: Path, settings: dict[str, Any]) -> None:
        self._settings = {"crash_journal": journal, "step_seconds": STEP_SECONDS, **settings}
        self.restarts = 0
        self.server: Process | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.ExitStack() as stack:
                starting = asyncio.ensure_future(
                    asyncio.to_thread(stack.enter_context, pencil_server(**self._settings))
                )
                try:
                    self.server = await asyncio.shield(starting)
                    while self.server.process.poll() is None:
                        await asyncio.sleep(0.01)
                finally:
                    await asyncio.gather(starting, return_exceptions=True)  # else it would be left behind
                    await asyncio.to_thread(stack.close)
                self.server = None
                self.restarts += 1

    async def ask(self, source: list[int], most: int, before: int) -> list[int]:
        """What a caller gets who does not give up; ``before`` is how often the service had begun anew when it came.

        Raises:
            Quarantined: refused for good.
            AssertionError: the service does not come back.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                again = self.restarts - before
                assert again <= MOST_RESTARTS, f"{again} restarts for one input"
                if (server := self.server) is None:
                    await asyncio.sleep(0.01)
                    continue
                try:
                    async with AsyncClient(server.target, max_attempts=1, timeout=PATIENCE) as client:
                        (result,) = await client.generate(token_ids=[source], max_new_tokens=most)
                        return list(result.hypotheses[0].token_ids)
                except Quarantined:
                    raise
                except SeqserveError:
                    await asyncio.sleep(0.01)


class Row:
    """Counts of one run of the row."""

    def __init__(self) -> None:
        self.restarts: Counter[int] = Counter()
        self.answered = self.refused = 0

    async def attack(self, service: Service, number: int) -> None:
        """One poisonous input among innocent ones, until everybody has an answer or is refused."""
        before = service.restarts
        poison = [KILL, WORDS[number % len(WORDS)], WORDS[number // len(WORDS) % len(WORDS)]]

        async def innocent(place: int) -> None:
            source, most = [WORDS[place], WORDS[(place + number) % len(WORDS)]], 30 + place
            try:
                found = await service.ask(source, most, before)
            except Quarantined:
                raise AssertionError(f"an innocent input was refused: {source}") from None
            assert found == answer([*source, END], most)[0], "an answer is wrong"
            self.answered += 1

        async def guilty() -> None:
            await asyncio.sleep(STEP_SECONDS * 4)  # the others are in the engine
            try:
                await service.ask(poison, 30, before)
            except Quarantined:
                self.refused += 1
            else:
                raise AssertionError("a poisonous input was answered")

        async with asyncio.TaskGroup() as tasks:
            for place in range(INNOCENT):
                tasks.create_task(innocent(place))
            tasks.create_task(guilty())
        self.restarts[service.restarts - before] += 1



async def poison(count: int, plant: str = "") -> str:
    """So many poisonous inputs, each different, each among innocent ones; some servers at a time."""
    row, numbers, progress = Row(), iter(range(count)), Progress("poison", count)
    settings: dict[str, Any] = {"plant": plant} if plant else {}

    async def lane(journal: Path) -> None:
        service = Service(journal, settings)
        running = asyncio.ensure_future(service.run())
        try:
            for number in numbers:
                await row.attack(service, number)
                progress.add()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with tempfile.TemporaryDirectory() as directory:
        lanes = [lane(Path(directory) / str(place)) for place in range(min(ABREAST, count))]
        failed = [each for each in await asyncio.gather(*lanes, return_exceptions=True) if each is not None]
    for each in failed:
        raise AssertionError(_first(each)) from each
    assert (row.refused, row.answered) == (count, count * INNOCENT)
    return (f"{count} inputs refused after {sum(number * times for number, times in row.restarts.items())} restarts, "
            f"{max(row.restarts)} each at most; {row.answered} innocent ones beside them answered, 0 refused")


def _first(error: BaseException) -> str:
    """What broke, of a group of failures."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
