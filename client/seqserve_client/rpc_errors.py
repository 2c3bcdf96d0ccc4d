"""From a failed call to the error that is raised: the one table of status codes and reasons on this side."""

from collections.abc import Callable
from typing import Any, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from seqserve_client.errors import (
    Cancelled,
    DeadlineExceeded,
    InputTooLong,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    PermissionDenied,
    Quarantined,
    QueueFull,
    SeqserveError,
    ServerError,
    TooManyInputs,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

# A reason says more than a code, so it is looked up first.
_BY_REASON: dict[str, type[SeqserveError]] = {
    "INPUT_TOO_LONG": InputTooLong,
    "MODEL_NOT_FOUND": ModelNotFound,
    "QUARANTINED": Quarantined,
    "QUEUE_FULL": QueueFull,
}
_BY_CODE: dict[grpc.StatusCode, type[SeqserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.FAILED_PRECONDITION: Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QueueFull,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


class FailedCall(Protocol):
    """What the blocking and the asyncio error of gRPC have in common."""

    def code(self) -> grpc.StatusCode:
        """Status code."""

    def details(self) -> str | None:
        """Text of the status."""

    def trailing_metadata(self) -> Any:
        """Pairs of key and value, or None."""


def error_from(call: FailedCall) -> SeqserveError:
    """The typed error for a failed call."""
    code = call.code()
    text = call.details() or code.name
    trailers = {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)}
    facts = _facts(call)
    reason = facts.get("reason", "")
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ServerError)
    if kind is QueueFull and not reason and "larger than max" in text:
        # Size limits are enforced inside gRPC, on either side, before our server could name a reason.
        kind = MessageTooLarge
    if kind is InvalidInput and facts.get("field") in ("inputs", "pairs", "texts", "token_ids"):
        kind = TooManyInputs  # the list itself, not an input in it; an empty one is never sent
    if "retry_after" not in facts and (pushback := trailers.get("grpc-retry-pushback-ms", "")).isdigit():
        facts["retry_after"] = int(pushback) / 1000
    facts.setdefault("request_id", trailers.get("x-request-id"))
    return kind(text, code=code, **facts)


def _facts(call: FailedCall) -> dict[str, Any]:
    """Keyword arguments of the error, read from the google.rpc details; empty where there are none."""
    try:
        status: status_pb2.Status | None = rpc_status.from_call(call)  # type: ignore[arg-type]
    except ValueError:  # details that contradict the status, from a proxy that rewrote one of the two
        return {}
    facts: dict[str, Any] = {}
    for detail in status.details if status is not None else ():
        known = _DETAILS.get(detail.type_url.rpartition("/")[2])
        if known is None:
            continue
        message = known[0].FromString(detail.value)
        facts.update(known[1](message))
    return facts


def _of_bad_request(message: Any) -> dict[str, Any]:
    return {"field": message.field_violations[0].field} if message.field_violations else {}


# By name, with what is read of each. Not ``Unpack``: one would have to try all of them on every detail.
_DETAILS: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    kind.DESCRIPTOR.full_name: (kind, read) for kind, read in (
        (error_details_pb2.ErrorInfo, lambda info: {"reason": info.reason, "metadata": dict(info.metadata)}),
        (error_details_pb2.BadRequest, _of_bad_request),
        (error_details_pb2.RetryInfo, lambda retry: {"retry_after": retry.retry_delay.ToTimedelta().total_seconds()}),
        (error_details_pb2.RequestInfo, lambda request: {"request_id": request.request_id}),
    )
}
