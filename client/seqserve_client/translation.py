"""One document's translation: which calls, in which order, and what a refusal leads to; for both clients."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from seqserve_client.documents import Document, Segment, assembled, segments_of, shortened
from seqserve_client.errors import InvalidInput
from seqserve_client.results import Result, ServerInfo

# As many sentences as keep a batch full while answers travel; larger calls would wait for the slowest of more.
BATCH_SIZE, CALLS_IN_FLIGHT = 32, 4

Progress = Callable[[int, int], object]
"""Called with how many characters of the source are done, and how many there are."""


class Translation:
    """A document on its way. ``run`` or ``run_async`` once.

    Args:
        text: The document.
        split: "sentences" or "lines".
        language: Of the text, for its abbreviations; None for all that are known.
        on_progress: Called after each call, in turn, by whichever thread made it.
        offset: Characters of the whole before this text, for messages.
    """

    def __init__(
        self, text: str, split: str, language: str | None, on_progress: Progress | None = None, *, offset: int = 0
    ) -> None:
        self._text, self._offset, self._on_progress = text, offset, on_progress
        self._answers: list[tuple[Segment, Result | None]] = []
        self._sent: list[Segment] = []
        for segment in segments_of(text, split, language):
            if segment.copied:
                self._answers.append((segment, None))
            else:
                self._sent.append(segment)
        self._done = len(text) - sum(len(segment.text) for segment in self._sent)
        self._turn = threading.Lock()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to ask for."""
        return not self._sent

    def run(self, ask: Callable[[list[str]], Sequence[Result]], *, batch_size: int = BATCH_SIZE) -> Document:
        """Ask for all sentences, several calls at a time; the first error ends it when those under way have ended."""
        def translate(batch: list[Segment]) -> None:
            while True:
                try:
                    results = ask([segment.text for segment in batch[:batch_size]])
                except InvalidInput as error:
                    batch = shortened(batch, error, self._offset)
                else:
                    self._note(batch[:batch_size], results)
                    batch = batch[batch_size:]
                    if not batch:
                        return

        with ThreadPoolExecutor(CALLS_IN_FLIGHT, "translate") as pool:
            for _ in pool.map(translate, self._batches(batch_size)):
                pass
        return self._document()

    async def run_async(
        self, ask: Callable[[list[str]], Awaitable[Sequence[Result]]], *, batch_size: int = BATCH_SIZE,
        calls_in_flight: int = CALLS_IN_FLIGHT,
    ) -> Document:
        """The same for asyncio; the first error cancels what is under way."""
        waiting = iter(self._batches(batch_size))

        async def work() -> None:
            for batch in waiting:
                while batch:
                    try:
                        results = await ask([segment.text for segment in batch[:batch_size]])
                    except InvalidInput as error:
                        batch = shortened(batch, error, self._offset)
                    else:
                        self._note(batch[:batch_size], results)
                        batch = batch[batch_size:]

        workers = [asyncio.create_task(work()) for _ in range(calls_in_flight)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return self._document()

    def _batches(self, size: int) -> list[list[Segment]]:
        return [self._sent[start : start + size] for start in range(0, len(self._sent), size)]

    def _note(self, batch: Sequence[Segment], results: Sequence[Result]) -> None:
        with self._turn:
            self._answers += zip(batch, results, strict=True)
            self._done += sum(len(segment.text) for segment in batch)
            if self._on_progress is not None:
                self._on_progress(min(self._done, len(self._text)), len(self._text))

    def _document(self) -> Document:
        self._answers.sort(key=lambda answer: answer[0].start)
        return assembled(self._text, self._answers)


def batch_size_of(info: ServerInfo, model: str | None, most: int = BATCH_SIZE) -> int:
    """How many sentences the server takes in one call, at most ``most``."""
    limits = [each.limits.max_inputs for each in info.models if model in (None, "", each.name)]
    return min([most, *(limit for limit in limits if limit)])
