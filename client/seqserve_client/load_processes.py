"""Client processes: one event loop of Python tops out near the speed of a server, several do not.

They are spawned, not forked, because gRPC does not survive a fork. Each has a channel of its own and every N-th request
of the schedule; all count their times from one reading of ``time.perf_counter``, a clock that is the same system-wide.
"""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, Self

from seqserve_client.arrivals import Share
from seqserve_client.async_client import AsyncClient
from seqserve_client.errors import SeqserveError
from seqserve_client.load import Load, Work
from seqserve_client.load_progress import Tally, total
from seqserve_client.load_test import LoadTest
from seqserve_client.report import Part
from seqserve_client.security import Tls

Tell = Callable[[Tally], None]
TELL_SECONDS = 0.25
LEAD_SECONDS = 0.1  # from the order to start until the start: each process must have read it by then


@dataclass(frozen=True, slots=True)
class Target:
    """The server, as every client process connects to it.

    Attributes:
        timeout: Seconds for one call, or None.
        tls: As for ``Client``.
        token: As for ``Client``.
    """

    address: str
    timeout: float | None = None
    tls: Tls | bool | None = None
    token: str | None = field(default=None, repr=False)


class ClientDied(RuntimeError):
    """A client process ended by itself."""


class Clients(AbstractContextManager["Clients"], Protocol):
    """Whatever sends a load; ``prepare`` and ``run`` in turns."""

    def prepare(self, load: Load) -> None:
        """Connect and warm up for a load; raises what the warm-up raises."""

    def run(self, tell: Tell | None) -> list[Part]:
        """Send it; ``tell`` is called about four times a second."""


class OwnProcess:
    """One share of every load, sent by this process. No retries: a refusal is a result here."""

    def __init__(self, target: Target, work: Work, share: Share | None = None) -> None:
        self._target, self._work, self._share = target, work, share or Share()
        self._runner = asyncio.Runner()
        self._client = AsyncClient(
            target.address, timeout=target.timeout, max_attempts=1, tls=target.tls, token=target.token
        )
        self._test: LoadTest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(_ended(self._client))
        finally:
            self._runner.close()

    def prepare(self, load: Load) -> None:
        """See ``Clients``."""
        self._test = LoadTest(self._client, load, self._work, self._share)
        self._runner.run(self._test.warm_up())

    def run(self, tell: Tell | None, start: float | None = None) -> list[Part]:
        """See ``Clients``; ``start`` as for ``LoadTest.run``."""
        if self._test is None:
            raise RuntimeError("run before prepare")
        test, self._test = self._test, None
        begin, used = time.perf_counter(), time.process_time()
        samples = self._runner.run(_told(test, tell, start))
        return [Part(samples, time.process_time() - used, time.perf_counter() - begin)]


async def _ended(client: AsyncClient) -> None:
    """Close a client. What is raised out of the event loop, as ``SystemExit`` is, leaves a load that would go on."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await client.close()


async def _told(test: LoadTest, tell: Tell | None, start: float | None) -> Any:
    """Run the test, and tell of it meanwhile."""

    async def often(tell: Tell) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            tell(test.tally)

    telling = asyncio.create_task(often(tell)) if tell is not None else None
    try:
        return await test.run(start)
    finally:
        if telling is not None:
            telling.cancel()


class ClientProcesses:
    """Several processes, with a share of every load each."""

    def __init__(self, target: Target, work: Work, count: int) -> None:
        self._settings = [(target, work, Share(index, count)) for index in range(count)]
        self._links: list[Connection[Any, Any]] = []
        self._processes: list[Any] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        try:
            for settings in self._settings:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, *settings), daemon=True)
                process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                self._links.append(ours)
                self._processes.append(process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for link in self._links:
            link.close()  # which a process that waits for orders takes as the last one
        for process in self._processes:
            process.join(1)
            if process.is_alive():
                process.terminate()
                process.join()

    def prepare(self, load: Load) -> None:
        """See ``Clients``; the processes warm up at the same time."""
        self._order(load)
        self._answers(None)

    def run(self, tell: Tell | None) -> list[Part]:
        """See ``Clients``; parts are in the order of the shares."""
        self._order(time.perf_counter() + LEAD_SECONDS)
        return self._answers(tell)

    def _order(self, order: Load | float) -> None:
        for number, link in enumerate(self._links):
            try:
                link.send(order)
            except OSError:
                raise self._died(number) from None

    def _answers(self, tell: Tell | None) -> list[Any]:
        """One answer of each process; raises the first error that one of them sends."""
        answers: dict[int, Any] = {}
        tallies = [Tally() for _ in self._links]
        while len(answers) < len(self._links):
            pending = [link for number, link in enumerate(self._links) if number not in answers]
            for link in wait(pending):
                number = self._links.index(link)  # type: ignore[arg-type]
                try:
                    message = self._links[number].recv()
                except (EOFError, OSError):
                    raise self._died(number) from None
                if isinstance(message, Tally):
                    tallies[number] = message
                elif isinstance(message, Exception):
                    raise message
                else:
                    answers[number] = message
            if tell is not None:
                tell(total(tallies))
        return [answers[number] for number in range(len(self._links))]

    def _died(self, number: int) -> ClientDied:
        self._processes[number].join(1)
        return ClientDied(f"client process {number} ended with exit code {self._processes[number].exitcode}")


def _serve(link: "Connection[Any, Any]", target: Target, work: Work, share: Share) -> None:
    """A client process: loads to prepare for and times to start at, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts us all; the first process ends the others

    def tell(tally: Tally) -> None:
        try:
            link.send(tally)
        except OSError:  # the first process is gone, and nobody else would end a load that nobody looks at
            raise SystemExit(1) from None

    with OwnProcess(target, work, share) as clients:
        while True:
            try:
                order = link.recv()
            except (EOFError, OSError):
                return
            try:
                if isinstance(order, Load):
                    clients.prepare(order)
                    link.send("ready")
                else:
                    (part,) = clients.run(tell, order)
                    link.send(part)
            except SeqserveError as error:
                link.send(error)
            except BrokenPipeError:
                return
