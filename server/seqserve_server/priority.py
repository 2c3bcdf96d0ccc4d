"""Threads that compute step back for those that answer.

An engine keeps all its cores busy, and the event loop wants one of them a few hundred times a second, for a fraction of
a millisecond each. Between equals the scheduler lets it wait for whole time slices; what asks little of many then waits
for what asks all. The engine loses next to nothing: it gives up the same time either way, in smaller pieces.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def lower_priority(niceness: int) -> None:
    """Add to the niceness of the calling thread and of the threads that it starts from now on; 0 changes nothing.

    It cannot be taken back without privileges. Only Linux has a niceness for each thread. Where a sandbox forbids the
    call the thread goes on as it was, and the log says so: an engine that is a bit in the way is better than none.
    """
    if niceness and sys.platform == "linux":
        thread = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
        except OSError as error:
            logger.warning("threads of the engine keep their priority: %s", error.strerror)


async def in_lowered_thread(work: Callable[[], Result], niceness: int) -> Result:
    """Run ``work`` in a thread of its own, which with all the threads it starts (a runtime's pool) steps back.

    Not in the event loop's executor: its threads are used again, for work that somebody waits for.
    """
    future: Future[Result] = Future()

    def body() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            lower_priority(niceness)
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=body, name="loader").start()  # a process that ends waits: under native code it may not
    return await asyncio.wrap_future(future)
