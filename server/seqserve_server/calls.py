"""What every handler of a call does alike: its deadline, its request id, and errors that leave as statuses."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED

from seqserve_server.admission import check_tenant
from seqserve_server.call_record import CURRENT, Metadata
from seqserve_server.errors import InvalidRequest, ServerError, SlowReader, TenantDenied
from seqserve_server.identity import caller_tenant
from seqserve_server.service_errors import internal_status, retry_seconds, serialized_status

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs, not when it runs
CODES = {status.value[0]: status for status in grpc.StatusCode}
_DETAILS = "grpc-status-details-bin"  # google.rpc.Status
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def deadline_of(context: Context) -> float | None:
    """The caller's deadline on this machine's monotonic clock."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def tenant_of(context: Context) -> str:
    """As ``tenant_in``, of the call's metadata."""
    return tenant_in(_metadata_of(context))


def _metadata_of(context: Context) -> Metadata:
    call = CURRENT.get()
    if call is not None:
        return call.metadata
    return context.invocation_metadata() or ()  # type: ignore[return-value]


def tenant_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The tenant of the caller's token; where that names none the caller's ``x-tenant``, empty where there is none.

    Raises:
        InvalidRequest: it is given twice, or is not the name of a tenant.
        TenantDenied: it is another than that of the token. Not put right in silence: who sends it believes to be
            served on that account.
    """
    given = [value for key, value in metadata if key == "x-tenant"]
    if len(given) > 1:
        raise InvalidRequest("metadata.x-tenant", "given more than once")
    claimed = check_tenant(str(given[0]), "metadata.x-tenant") if given else ""
    own = caller_tenant.get()
    if own and claimed not in ("", own):
        raise TenantDenied
    return own or claimed


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's ``x-request-id`` where it is harmless, else a new one."""
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return f"{random.getrandbits(128):032x}"  # to look it up by, no secret: uuid4 asks the kernel every time


def request_id_for(context: Context) -> str:
    """The id that the call's record has; of a call without a record, what it would have."""
    call = CURRENT.get()
    return request_id_of(context.invocation_metadata() or ()) if call is None else call.request_id


async def write(context: Context, message: object, timeout_seconds: float) -> None:
    """Write one message of a stream. Who does not read it for so long, where that is not 0, has no call any more.

    Raises:
        SlowReader: the time is over.
    """
    try:
        async with asyncio.timeout(timeout_seconds or None):
            await context.write(message)
    except TimeoutError:
        raise SlowReader(timeout_seconds) from None


async def guarded(
    context: Context, answer: Callable[[], Awaitable[Answer]], *, overloaded: int = RESOURCE_EXHAUSTED
) -> Answer:
    """Run a handler; errors leave as statuses with details. A cancelled handler stays cancelled.

    Args:
        overloaded: See ``status_of``.
    """
    request_id = request_id_for(context)
    context.set_trailing_metadata((("x-request-id", request_id),))
    try:
        return await answer()
    except ServerError as error:
        failure = error
    except grpc.aio.InternalError:  # gRPC could not send: the caller has gone, so nobody failed
        raise asyncio.CancelledError from None
    except Exception:
        logger.exception("request %s failed", request_id)
        status = internal_status(request_id)
        await _abort(context, status.code, status.message, status.SerializeToString(), request_id)
    await refuse(context, failure, request_id, overloaded=overloaded)


async def refuse(
    context: Context, error: ServerError, request_id: str, *, overloaded: int = RESOURCE_EXHAUSTED
) -> NoReturn:
    """End a call with the status of an error."""
    if (call := CURRENT.get()) is not None:
        call.reason = error.reason
    code, details = serialized_status(error, request_id, overloaded=overloaded)
    delay = retry_seconds(error)
    advice = (("grpc-retry-pushback-ms", str(int(delay * 1000))),) if delay >= 0 else ()
    await _abort(context, code, str(error), details, request_id, *advice)


async def _abort(
    context: Context, code: int, message: str, details: bytes, request_id: str, *more: tuple[str, str]
) -> NoReturn:
    # Not abort_with_status: it would replace the trailing metadata set before by the status details alone.
    try:
        await context.abort(CODES[code], message, ((_DETAILS, details), ("x-request-id", request_id), *more))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")
