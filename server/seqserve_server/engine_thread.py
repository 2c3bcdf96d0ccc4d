"""The one thread that steps the engines of all models, and how its end or its standing still is noticed."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from seqserve_server.errors import EngineStopped
from seqserve_server.loop import Loop
from seqserve_server.priority import lower_priority
from seqserve_server.watchdog import Watchdog

logger = logging.getLogger(__name__)
PAUSE_SECONDS = 0.001
LOOK_SECONDS = 0.25
STOP_SECONDS = 10.0

Errand = tuple[Iterator[None], "Future[None]"]


class Runner:
    """Steps loops in turn, one iteration each, for as long as there is work; never two engines at once.

    ``run`` is the thread's body and alone touches the list of loops; all else may be called from any thread. What has
    to be done by that thread besides steps comes as errands: iterators, advanced once per round, so that a long one
    does not hold up running requests for longer than one of its parts.
    """

    def __init__(self) -> None:
        self._loops: list[Loop] = []
        self._errands: deque[Errand] = deque()
        self._wake = threading.Event()
        self._stopping = self._closed = False
        self._rounds = 0
        self._on_errand = False

    @property
    def progress(self) -> int:
        """Changes with whatever the thread finishes. From any thread."""
        return self._rounds + sum(loop.progress for loop in list(self._loops))

    @property
    def ended(self) -> bool:
        """Whether the thread steps nothing any more. From any thread."""
        return self._closed

    @property
    def has_work(self) -> bool:
        """Whether requests wait for the thread and it is about them. Loading a model may take its time."""
        return not self._on_errand and any(loop.busy for loop in list(self._loops))

    def add(self, loop: Loop) -> "Future[None]":
        """Step this loop too; done once it is. Of a thread that has ended nothing is stepped: the loop is closed."""
        loop.wake = self._wake.set

        def added() -> None:
            self._loops.append(loop)

        future = self.call(added)
        future.add_done_callback(lambda done: loop.close() if done.cancelled() or done.exception() else None)
        return future

    def remove(self, loop: Loop) -> "Future[None]":
        """Step this loop no more, and close it; done once the thread has let go of it."""
        def removed() -> None:
            if loop in self._loops:
                self._loops.remove(loop)
                loop.close()
                loop.let_go()

        return self.call(removed)

    def call(self, work: Callable[[], None]) -> "Future[None]":
        """Have the thread do something between two rounds."""
        return self.work(_once(work))

    def work(self, parts: Iterator[None]) -> "Future[None]":
        """Have the thread advance an iterator, once per round, to its end.

        The future has whatever it raises; ``EngineStopped`` where the thread ends first.
        """
        future: Future[None] = Future()
        self._errands.append((parts, future))
        self._wake.set()
        if self._closed:  # either the thread saw it on its way out, or this line sees that it is over
            self._refuse_errands()
        return future

    def stop(self) -> None:
        """Make ``run`` return after the step it is in."""
        self._stopping = True
        self._wake.set()

    def run(self, ending: Callable[[], None] | None = None) -> None:
        """Body of the engine thread. Whatever ends it, every open request of every loop gets its terminal event.

        Args:
            ending: Called before any of these. Who is told that its request failed may look at health the next moment,
                which must know by then.
        """
        try:
            while True:
                self._wake.clear()  # before looking at anything: whatever comes after the look sets it again
                if self._stopping:
                    return
                self._round()
                if not self._errands and not any(loop.busy for loop in self._loops):
                    self._wake.wait()
        finally:
            try:
                if ending is not None:
                    ending()
            finally:
                self._close()

    def _round(self) -> None:
        """A part of each errand, an iteration of each loop that has work."""
        self._on_errand = True
        for _ in range(len(self._errands)):
            self._advance(*self._errands.popleft())
        self._on_errand = False
        self._rounds += 1
        for loop in self._loops:
            if self._stopping:
                return
            if loop.busy:
                loop.step()
        if not self._errands and all(loop.empty for loop in self._loops):
            # The last answer is on its way to callers who need this thread's hold on the interpreter: book-keeping and
            # cleaning up can wait until they have it.
            self._wake.wait(PAUSE_SECONDS)
        for loop in self._loops:
            loop.report()

    def _advance(self, parts: Iterator[None], future: "Future[None]") -> None:
        if not _begun(future):
            return
        try:
            next(parts)
        except StopIteration:
            future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            future.set_exception(error)
        else:
            self._errands.append((parts, future))

    def _close(self) -> None:
        self._closed = True
        with contextlib.ExitStack() as closing:  # one that raises costs the others nothing
            closing.callback(self._refuse_errands)
            for loop in self._loops:
                closing.callback(loop.close)

    def _refuse_errands(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                _, future = self._errands.popleft()
                if _begun(future):
                    future.set_exception(EngineStopped())


def _begun(future: "Future[None]") -> bool:
    """Whether somebody still wants it; from here on it cannot be cancelled any more."""
    return future.running() or future.set_running_or_notify_cancel()


def _once(work: Callable[[], None]) -> Iterator[None]:
    work()
    yield from ()


@contextlib.contextmanager
def engine_thread(
    runner: Runner, lost: Callable[[], None], hang_seconds: float = 0.0, niceness: int = 0
) -> Iterator[None]:
    """Runs the runner.

    Args:
        lost: Called once, by another thread, when the runner ended by itself or hangs. A native call that hangs cannot
            be ended: what is left is to tell everybody and to end the process.
        hang_seconds: It hangs when there is work and nothing of it ends for so long; 0 for never.
        niceness: See ``lower_priority``.
    """
    told, leaving = threading.Lock(), threading.Event()  # the lock is taken by who tells, and never given back

    def tell() -> None:
        if not leaving.is_set() and told.acquire(blocking=False):
            lost()

    def body() -> None:
        try:
            lower_priority(niceness)
            runner.run(tell)
        except BaseException:
            logger.exception("the engine thread ended")
        finally:
            tell()  # where not even run was reached

    def watch() -> None:
        look_seconds = min(LOOK_SECONDS, hang_seconds / 8)
        watchdog = Watchdog(hang_seconds, 2 * look_seconds)
        while not leaving.wait(look_seconds):
            if watchdog.hangs(time.monotonic(), runner.progress, has_work=runner.has_work):
                logger.error("the engine hangs: there is work, and nothing of it ended in %g seconds", hang_seconds)
                tell()
                return

    # Daemons: an engine that hangs must not keep a process alive that wants to exit.
    thread = threading.Thread(target=body, name="engine", daemon=True)
    thread.start()
    if hang_seconds:
        threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        leaving.set()
        runner.stop()
        thread.join(timeout=0 if told.locked() else STOP_SECONDS)
