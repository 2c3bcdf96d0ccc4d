"""What calls leave of themselves in a server of this process, once all of them are over: it should be nothing."""

import asyncio
import os
from typing import NamedTuple

from serving import Served

PATIENCE = 30.0  # whoever waits for so long waits for ever


class Remains(NamedTuple):
    """What there is in this process."""

    tasks: int
    descriptors: int


async def nothing_inside(served: Served, patience: float = PATIENCE) -> None:
    """Wait until no call is inside, and no row or place in use.

    Raises:
        TimeoutError: something is in use for ever.
    """
    async with asyncio.timeout(patience):
        await served.until(lambda: served.inside == 0 and served.server.models.calls == 0)
        await served.until(lambda: served.engine.occupied == [])


async def remains(served: Served) -> Remains:
    """What is there once nothing of any call is inside."""
    await nothing_inside(served)
    await asyncio.sleep(0.3)
    return Remains(len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))


async def expect_no_more(served: Served, before: Remains) -> None:
    """As before; a leak is what does not go, not what goes late.

    Raises:
        AssertionError: more tasks or descriptors than before.
    """
    for _ in range(50):
        after = await remains(served)
        if after.tasks <= before.tasks and after.descriptors <= before.descriptors + 2:
            return
    assert after.tasks <= before.tasks, f"tasks: {before.tasks}, then {after.tasks}"
    raise AssertionError(f"file descriptors: {before.descriptors}, then {after.descriptors}")
