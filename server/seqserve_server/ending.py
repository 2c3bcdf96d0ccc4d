"""How a server ends its calls: told to stop, it drains; without an engine, nobody waits in vain."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from seqserve_server.errors import Draining, EngineStopped
from seqserve_server.served_models import ServedModels

logger = logging.getLogger(__name__)
TELL_SECONDS = 0.5  # that calls have to carry their last status to their clients

SetHealth = Callable[[], Coroutine[Any, Any, None]]


class Ending:
    """Of one server. Belongs to the event loop's thread, but for ``lost``.

    Attributes:
        failed: Set once the engine is lost.
    """

    def __init__(
        self, server: grpc.aio.Server, models: ServedModels, *, not_ready: SetHealth, not_alive: SetHealth,
        last_resort: Callable[[], None],
    ) -> None:
        """``not_ready`` and ``not_alive`` change what health says; ``last_resort`` is called when the engine is lost,
        by the thread that noticed it: the event loop may be lost as well."""
        self.failed = asyncio.Event()
        self._server, self._models = server, models
        self._not_ready, self._not_alive, self._last_resort = not_ready, not_alive, last_resort
        self._event_loop = asyncio.get_running_loop()
        self._telling: asyncio.Task[None] | None = None

    def lost(self) -> None:
        """The engine ended, or hangs. Called by another thread."""
        self._last_resort()
        self._event_loop.call_soon_threadsafe(self._end_calls)

    def _end_calls(self) -> None:
        self._telling = asyncio.create_task(self._not_alive())  # begins before any call does what it was told
        self._models.close(EngineStopped)
        self.failed.set()

    async def stop(self, drain_seconds: float) -> None:
        """Take no more calls, and end those there are.

        Args:
            drain_seconds: That they have to end by themselves. Just before it is over, those that have not are told to
                go elsewhere: cut off by the transport, they would look like cancelled ones.
        """
        if self.failed.is_set():
            await asyncio.sleep(TELL_SECONDS)  # calls on their way are told too: a stopping server would cancel them
            await self._server.stop(0)
            return
        # New calls are refused and connections told to go away at once: a client that stays on a draining connection
        # would only collect refusals.
        await self._not_ready()
        seconds = max(drain_seconds, TELL_SECONDS)
        stopping = asyncio.ensure_future(self._server.stop(seconds))
        ended, _ = await asyncio.wait([stopping], timeout=seconds - TELL_SECONDS)
        if not ended:
            calls = self._models.calls
            logger.warning("%d calls are not over after %g seconds, and are cut off", calls, drain_seconds)
            self._models.close(Draining)
        await stopping
