"""Many requests on one stream: each is answered by a task of its own, and none outlives the stream."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from google.rpc import code_pb2

from seqserve_server.call_record import CURRENT
from seqserve_server.calls import Context, write
from seqserve_server.errors import ServerError, SlowReader
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.inference import FINAL, MAX_ID_BYTES
from seqserve_server.service_errors import internal_status, status_of

logger = logging.getLogger(__name__)
# No more are read until one has ended; whoever sends on is held back by the transport. A message is at most one of
# --max-message-bytes, and most are parsed and let go before the next one is read.
MAX_OPEN = 256
Send = Callable[[pb.ModelInferResponse], Awaitable[None]]
Respond = Callable[[pb.ModelInferRequest, Send], Awaitable[None]]


def sooner(deadline: float | None, timeout: float | None) -> float | None:
    """The deadline that comes first, on the monotonic clock; ``timeout`` is in seconds from now."""
    if timeout is None:
        return deadline
    own = time.monotonic() + timeout
    return own if deadline is None else min(deadline, own)


class Multiplex:
    """One stream. Not for two."""

    def __init__(self, context: Context, respond: Respond, overloaded: int, write_timeout_seconds: float) -> None:
        """``respond`` answers one request; ``overloaded`` is the code for what another replica could take."""
        self._context, self._respond, self._overloaded = context, respond, overloaded
        self._write_timeout = write_timeout_seconds
        self._writing = asyncio.Lock()  # one write at a time is all that a call allows
        self._places = asyncio.Semaphore(MAX_OPEN)

    async def run(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        """Until the caller has sent everything and got everything. Cancelled, it cancels all that is open.

        Raises:
            SlowReader: the caller does not read; all that is open is cancelled.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                async for request in requests:
                    await self._places.acquire()
                    tasks.create_task(self._answer(request))
        except BaseExceptionGroup as group:
            if group.subgroup(SlowReader) is None:
                raise
            raise SlowReader(self._write_timeout) from None

    async def _answer(self, request: pb.ModelInferRequest) -> None:
        name = request.id
        try:
            await self._respond(request, self._send)
        except SlowReader:  # there is nobody to tell
            raise
        except grpc.aio.InternalError:  # gRPC could not send: the caller has gone, so nobody failed
            return
        except ServerError as error:
            if (call := CURRENT.get()) is not None:
                call.refused[error.reason] = call.refused.get(error.reason, 0) + 1
            status = status_of(error, "", overloaded=self._overloaded)
            await self._tell(name, f"{code_pb2.Code.Name(status.code)}: {error}")
        except Exception:
            logger.exception("request %.64r of a stream failed", name)
            status = internal_status("")
            await self._tell(name, f"{code_pb2.Code.Name(status.code)}: {status.message}")
        finally:
            self._places.release()

    async def _tell(self, name: str, problem: str) -> None:
        """The one answer to a request that got no other, or no more."""
        response = pb.ModelInferResponse(id=name if len(name.encode()) <= MAX_ID_BYTES else "")
        response.parameters[FINAL].bool_param = True
        with contextlib.suppress(grpc.aio.InternalError):
            await self._write(pb.ModelStreamInferResponse(error_message=problem, infer_response=response))

    async def _send(self, response: pb.ModelInferResponse) -> None:
        await self._write(pb.ModelStreamInferResponse(infer_response=response))

    async def _write(self, message: pb.ModelStreamInferResponse) -> None:
        async with self._writing:
            await write(self._context, message, self._write_timeout)
