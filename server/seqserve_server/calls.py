"""What every handler of a call does alike: its deadline, its request id, and errors that leave as statuses."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import grpc
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from grpc_status import rpc_status

from seqserve_server.admission import check_tenant
from seqserve_server.call_record import CURRENT
from seqserve_server.errors import InvalidRequest, ServerError, SlowReader, TenantDenied
from seqserve_server.identity import caller_tenant
from seqserve_server.service_errors import internal_status, retry_seconds, status_of

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs, not when it runs
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def deadline_of(context: Context) -> float | None:
    """The caller's deadline on this machine's monotonic clock."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def tenant_of(context: Context) -> str:
    """As ``tenant_in``, of the call's metadata."""
    return tenant_in(context.invocation_metadata() or ())


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
    call = CURRENT.get()
    request_id = request_id_of(context.invocation_metadata() or ()) if call is None else call.request_id
    trailing = [("x-request-id", request_id)]
    context.set_trailing_metadata(tuple(trailing))
    try:
        return await answer()
    except ServerError as error:
        if call is not None:
            call.reason = error.reason
        status = status_of(error, request_id, overloaded=overloaded)
        if (delay := retry_seconds(error)) >= 0:
            trailing.append(("grpc-retry-pushback-ms", str(int(delay * 1000))))
    except grpc.aio.InternalError:  # gRPC could not send: the caller has gone, so nobody failed
        raise asyncio.CancelledError from None
    except Exception:
        logger.exception("request %s failed", request_id)
        status = internal_status(request_id)
    # Not abort_with_status: it would replace the trailing metadata set before by the status details alone.
    final = rpc_status.to_status(status)
    try:
        await context.abort(final.code, final.details, (*final.trailing_metadata, *trailing))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")
