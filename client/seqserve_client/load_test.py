"""The load test: when to send, what to send, and one coroutine per request that notes its times.

An open loop sends on a schedule fixed in advance, whatever the server does; a closed loop keeps a fixed number of
requests in flight. Only an open loop shows what users of a busy server see; see ``seqserve_client.report``.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seqserve_client.async_client import AsyncClient
from seqserve_client.errors import SeqserveError
from seqserve_client.options import GenerationOptions
from seqserve_client.report import Sample
from seqserve_client.results import ModelInfo

Source = str | list[int]


@dataclass(frozen=True, slots=True)
class Load:
    """How to load the server.

    Attributes:
        rate: Mean requests per second of an open loop (Poisson arrivals; infinite sends all at once), or None for a
            closed loop.
        concurrency: Most requests in flight: in a closed loop the number of workers; in an open loop a cap, behind
            which requests wait with their intended time unchanged; None for no cap.
        requests: How many to send, or None.
        duration: Seconds during which to send, or None; what is in flight then is waited for.
        warmup: Requests sent first, one after the other, and not counted.
        stream: Whether to stream, which alone shows when tokens arrive.
    """

    rate: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    duration: float | None = None
    warmup: int = 0
    stream: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate is None and self.concurrency is None:
            raise ValueError("a load needs a rate (open loop) or a concurrency (closed loop)")
        if self.requests is None and self.duration is None:
            raise ValueError("a load needs a number of requests or a duration")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate must be above 0, not {self.rate}")
        if self.rate is not None and math.isinf(self.rate) and self.requests is None:
            raise ValueError("an infinite rate needs a number of requests")


def arrival_offsets(seed: int, rate: float, count: int | None, duration: float | None = None) -> Iterator[float]:
    """Intended send times of a Poisson process, in seconds after the start; the first gap is random like all others.

    Args:
        seed: The same seed gives the same times, also under another count or duration, and times in proportion under
            another rate.
        rate: Mean arrivals per second; infinite for all at 0.
        count: Most arrivals, or None.
        duration: Arrivals lie before it, or None.
    """
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    now, sent = 0.0, 0
    while count is None or sent < count:
        now += generator.expovariate(1.0) / rate
        if duration is not None and now >= duration:
            return
        yield now
        sent += 1


def random_sources(seed: int, length: int, model: ModelInfo) -> Iterator[list[int]]:
    """Endless seeded inputs of ``length`` ids.

    The first few ids and the last are left out where the vocabulary allows it: special tokens usually sit there.
    """
    size = model.limits.source_vocab_size
    low, high = (4, size - 2) if size >= 8 else (0, size - 1)
    generator = random.Random(seed)  # noqa: S311
    while True:
        yield [generator.randint(low, high) for _ in range(length)]


def text_sources(seed: int, texts: Sequence[str]) -> Iterator[str]:
    """The texts again and again, each round in another seeded order."""
    generator = random.Random(seed)  # noqa: S311
    while True:
        yield from generator.sample(texts, len(texts))


class LoadTest:
    """One run against one server.

    Args:
        sources: As many inputs as the load sends, warm-up included.
        progress: Called after each end of a request with the numbers of ended and failed ones.
    """

    def __init__(
        self,
        client: AsyncClient,
        load: Load,
        sources: Iterator[Source],
        options: GenerationOptions,
        *,
        model: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._load = load
        self._sources = sources
        self._options = options
        self._model = model
        self._progress = progress
        self._samples: list[Sample] = []
        self._failed = 0
        self._start = 0.0

    async def run(self) -> list[Sample]:
        """Send everything and wait for every end; samples come in the order of ends."""
        for _ in range(self._load.warmup):
            # Failures of the warm-up are raised: a test of a server that refuses everything is not wanted.
            await self._send(Sample(0, 0), next(self._sources))
        self._start = time.perf_counter()
        if self._load.rate is None:
            await self._closed_loop()
        else:
            await self._open_loop(self._load.rate)
        return self._samples

    async def _open_loop(self, rate: float) -> None:
        cap = asyncio.Semaphore(self._load.concurrency) if self._load.concurrency else None
        running: set[asyncio.Task[None]] = set()
        for offset in arrival_offsets(self._load.seed, rate, self._load.requests, self._load.duration):
            # A late loop sends at once; sleep(0) lets the answers of requests already sent be read in between.
            await asyncio.sleep(max(0.0, offset - self._now()))
            task = asyncio.create_task(self._measure(offset, next(self._sources), cap))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _closed_loop(self) -> None:
        left = math.inf if self._load.requests is None else self._load.requests
        end = math.inf if self._load.duration is None else self._load.duration

        async def worker() -> None:
            nonlocal left
            while left > 0 and (now := self._now()) < end:
                left -= 1
                await self._measure(now, next(self._sources), None)

        await asyncio.gather(*(worker() for _ in range(self._load.concurrency or 1)))

    async def _measure(self, intended: float, source: Source, cap: asyncio.Semaphore | None) -> None:
        if cap is not None:
            await cap.acquire()
        sample = Sample(intended=intended, sent=self._now())
        try:
            await self._send(sample, source)
        except SeqserveError as error:
            sample.error = error.code.name
            self._failed += 1
        finally:
            if cap is not None:
                cap.release()
        sample.ended = self._now()
        self._samples.append(sample)
        if self._progress is not None:
            self._progress(len(self._samples), self._failed)

    async def _send(self, sample: Sample, source: Source) -> None:
        if self._load.stream:
            await self._send_stream(sample, source)
            return
        if isinstance(source, str):
            results = await self._client.generate([source], model=self._model, **self._options)
        else:
            results = await self._client.generate(token_ids=[source], model=self._model, **self._options)
        sample.input_tokens = results[0].input_token_count
        sample.output_tokens = results[0].output_token_count

    async def _send_stream(self, sample: Sample, source: Source) -> None:
        if isinstance(source, str):
            chunks = self._client.stream(source, model=self._model, **self._options)
        else:
            chunks = self._client.stream(token_ids=source, model=self._model, **self._options)
        async with chunks:
            async for chunk in chunks:
                # The last message may hold the end token alone, which is a token too where it is the first.
                if chunk.token_ids or not sample.token_times:
                    sample.token_times.append(self._now())
                if chunk.result is not None:
                    sample.input_tokens = chunk.result.input_token_count
                    sample.output_tokens = chunk.result.output_token_count

    def _now(self) -> float:
        """Seconds after the start."""
        return time.perf_counter() - self._start
