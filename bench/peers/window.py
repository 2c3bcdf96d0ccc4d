"""Dynamic batching by a window: what a server puts in front of a library that decodes closed batches."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """One request: its pieces, its limits in new tokens, when it came (loop time), and where its answer goes."""

    pieces: list[str]
    least: int
    most: int
    came: float
    answer: "asyncio.Future[list[str]]"


class Window:
    """Collects requests into batches, at most ``workers`` of which are decoded at a time.

    Args:
        decode: Pieces of all answers; called in a thread of its own.
        seconds: Age of the oldest request at which a batch goes.
        size: Requests with which it goes at once.
    """

    def __init__(
        self, decode: Callable[[list[Waiting]], list[list[str]]], seconds: float, size: int, workers: int
    ) -> None:
        self._decode, self._seconds, self._size = decode, seconds, size
        self._free = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers)
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, pieces: list[str], least: int, most: int) -> list[str]:
        """The answer to one request."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(pieces, least, most, loop.time(), loop.create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._free.acquire()
            task = asyncio.create_task(self._answer(await self._collect()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _collect(self) -> list[Waiting]:
        batch = [await self._queue.get()]
        end = batch[0].came + self._seconds
        while len(batch) < self._size:
            # What waited while another batch was decoded comes along, however old the first is.
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            try:
                left = end - asyncio.get_running_loop().time()
                batch.append(await asyncio.wait_for(self._queue.get(), max(0.0, left)))
            except TimeoutError:
                break
        return batch

    async def _answer(self, batch: list[Waiting]) -> None:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, batch)
        except Exception as error:  # noqa: BLE001 - whatever the library raises belongs to the callers
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():  # its caller may have gone
                    waiting.answer.set_result(answer)
        finally:
            self._free.release()
