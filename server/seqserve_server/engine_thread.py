"""The one thread that steps the engine, and what is heard of it when it ends by itself."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from seqserve_server.loop import Loop

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def engine_thread(loop: Loop, failed: asyncio.Event, warm_up: Callable[[], None]) -> Iterator[Future[None]]:
    """Runs the loop; tells when it is warm. One thread for both: the CUDA graphs of one are not another's."""
    event_loop = asyncio.get_running_loop()
    stopping = False
    warm: Future[None] = Future()

    def body() -> None:
        try:
            warm_up()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            warm.set_exception(error)
            return
        warm.set_result(None)
        try:
            loop.run()
        except Exception:
            logger.exception("the engine thread ended")
        finally:
            if not stopping:
                event_loop.call_soon_threadsafe(failed.set)

    # A daemon: an engine that hangs must not keep a process alive that wants to exit.
    thread = threading.Thread(target=body, name="engine", daemon=True)
    thread.start()
    try:
        yield warm
    finally:
        stopping = True
        loop.stop()
        thread.join(timeout=10)
