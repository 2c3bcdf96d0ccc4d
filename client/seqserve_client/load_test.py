"""The load test of one client process: one coroutine per request, which notes its times.

An open loop sends on a schedule fixed in advance, whatever the server does; a closed loop keeps a fixed number of
requests in flight. Only an open loop shows what users of a busy server see; see ``docs/load-testing.md``.
"""

import asyncio
import math
import time

from seqserve_client.arrivals import Share
from seqserve_client.async_client import AsyncClient
from seqserve_client.errors import SeqserveError
from seqserve_client.load import Load, Request, Work
from seqserve_client.load_progress import Tally
from seqserve_client.report import Sample


class LoadTest:
    """One share of one load on one server.

    Attributes:
        tally: What has become of the requests so far.
    """

    def __init__(self, client: AsyncClient, load: Load, work: Work, share: Share | None = None) -> None:
        self._client = client
        self._load = load
        self._work = work
        self._share = share or Share()
        if load.concurrency is not None and load.concurrency < self._share.count:
            raise ValueError(f"{self._share.count} processes cannot share a concurrency of {load.concurrency}")
        self._samples: list[Sample] = []
        self._start = 0.0
        self.tally = Tally()

    async def warm_up(self) -> None:
        """Send what does not count. Failures are raised: a test of a server that refuses everything is not wanted."""
        for number in range(self._load.warm_ups):
            await self._send(Sample(0, 0), self._work.warm_up(self._load, self._share, number))

    async def run(self, start: float | None = None) -> list[Sample]:
        """Send everything and wait for every end; samples come in the order of ends.

        Args:
            start: Reading of ``time.perf_counter`` from which all times count; None for now. That clock is the same in
                all processes of a machine, so several of them can be given the same start.
        """
        self._start = time.perf_counter() if start is None else start
        if self._load.is_open:
            await self._open_loop()
        else:
            await self._closed_loop()
        return self._samples

    async def _open_loop(self) -> None:
        limit = self._share.part(self._load.concurrency) if self._load.concurrency else 0
        cap = asyncio.Semaphore(limit) if limit else None
        running: set[asyncio.Task[None]] = set()
        try:
            for number, offset in self._share.offsets(self._load.arrivals()):
                request = self._work.request(self._load, number)
                # A late loop sends at once; sleep(0) lets the answers of requests already sent be read in between.
                await asyncio.sleep(max(0.0, offset - self._now()))
                task = asyncio.create_task(self._measure(offset, request, cap))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.gather(*running)
        finally:  # of an interrupt: nothing is sent any more by a client that is closed next
            left = list(running)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _closed_loop(self) -> None:
        load = self._load
        numbers = self._share.numbers()
        left: float = math.inf if load.requests is None else self._share.part(load.requests)
        end = math.inf if load.duration is None else load.ramp + load.duration
        async def worker(begin: float) -> None:
            nonlocal left
            await asyncio.sleep(max(0.0, begin - self._now()))
            while left > 0 and (now := self._now()) < end:
                left -= now >= load.ramp
                await self._measure(now, self._work.request(load, next(numbers)), None)

        await asyncio.gather(*(worker(begin) for begin in load.worker_begins(self._share)))

    async def _measure(self, intended: float, request: Request, cap: asyncio.Semaphore | None) -> None:
        sample = Sample(intended=intended, ready=self._now(), sent=0.0, kind=request.kind.name)
        if cap is not None:
            await cap.acquire()
        sample.sent = self._now()
        self.tally.sent += 1
        try:
            await self._send(sample, request)
        except SeqserveError as error:
            sample.error, sample.error_text = error.code.name, str(error)
        finally:
            if cap is not None:
                cap.release()
        sample.ended = self._now()
        self._samples.append(sample)
        self.tally.end(sample.ended - intended, failed=sample.error is not None)

    async def _send(self, sample: Sample, request: Request) -> None:
        source, model, options = request.source, self._work.model, request.options
        if request.kind.stream:
            await self._send_stream(sample, request)
            return
        if isinstance(source, str):
            results = await self._client.generate([source], model=model, **options)
        else:
            results = await self._client.generate(token_ids=[source], model=model, **options)
        sample.input_tokens = results[0].input_token_count
        sample.output_tokens = results[0].output_token_count

    async def _send_stream(self, sample: Sample, request: Request) -> None:
        source, model, options = request.source, self._work.model, request.options
        if isinstance(source, str):
            chunks = self._client.stream(source, model=model, **options)
        else:
            chunks = self._client.stream(token_ids=source, model=model, **options)
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
