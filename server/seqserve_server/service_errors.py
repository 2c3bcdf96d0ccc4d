"""Errors to gRPC statuses: one table, with ``google.rpc`` details on every status."""

from functools import lru_cache

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from seqserve_server.errors import (
    DeadlineInQueue,
    DeadlinePassed,
    DeadlineUnreachable,
    Draining,
    EngineFailure,
    EngineStopped,
    InputTooLong,
    InvalidRequest,
    Loading,
    NoScorer,
    Quarantined,
    QueueFull,
    ServerError,
    SlowReader,
    TenantDenied,
    Unauthenticated,
    UnknownModel,
)

DOMAIN = "seqserve"
_CODES: dict[type[ServerError], int] = {
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    InputTooLong: code_pb2.INVALID_ARGUMENT,
    UnknownModel: code_pb2.NOT_FOUND,
    Unauthenticated: code_pb2.UNAUTHENTICATED,
    TenantDenied: code_pb2.PERMISSION_DENIED,
    NoScorer: code_pb2.FAILED_PRECONDITION,
    Quarantined: code_pb2.FAILED_PRECONDITION,
    QueueFull: code_pb2.RESOURCE_EXHAUSTED,
    Loading: code_pb2.UNAVAILABLE,
    EngineStopped: code_pb2.UNAVAILABLE,
    Draining: code_pb2.UNAVAILABLE,
    SlowReader: code_pb2.CANCELLED,
    DeadlinePassed: code_pb2.DEADLINE_EXCEEDED,
    DeadlineInQueue: code_pb2.DEADLINE_EXCEEDED,
    DeadlineUnreachable: code_pb2.DEADLINE_EXCEEDED,
    EngineFailure: code_pb2.INTERNAL,
}
_REQUEST_INFO_URL = f"type.googleapis.com/{error_details_pb2.RequestInfo.DESCRIPTOR.full_name}"
_RETRY_ELSEWHERE_SECONDS = 1.0


def status_of(
    error: ServerError, request_id: str, *, overloaded: int = code_pb2.RESOURCE_EXHAUSTED
) -> status_pb2.Status:
    """Status with code, message and details. An engine's failure says no more than that it happened.

    Args:
        overloaded: The code in place of RESOURCE_EXHAUSTED, for protocols that have another one.
    """
    status = _anonymous(error, overloaded)
    status.details.append(_request_info(request_id))
    return status


def serialized_status(error: ServerError, request_id: str, *, overloaded: int) -> tuple[int, bytes]:
    """Code of ``status_of``, and the whole of it in bytes.

    The statuses of a flood that is refused differ in their ids only: the rest is made once. Of two messages in bytes,
    one behind the other, protobuf makes one that has the repeated fields of both.
    """
    if isinstance(error, QueueFull):
        code, rest = _serialized_full(
            error.limit_name, error.wanted, error.free, error.limit, error.retry_after, overloaded
        )
    else:
        status = _anonymous(error, overloaded)
        code, rest = status.code, status.SerializeToString()
    return code, rest + status_pb2.Status(details=[_request_info(request_id)]).SerializeToString()


@lru_cache(maxsize=256)
def _serialized_full(
    limit_name: str, wanted: int, free: int, limit: int, retry_after: float, overloaded: int
) -> tuple[int, bytes]:
    status = _anonymous(QueueFull(limit_name, wanted, free, limit, retry_after), overloaded)
    return status.code, status.SerializeToString()


def _anonymous(error: ServerError, overloaded: int) -> status_pb2.Status:
    """Without the request's id."""
    metadata: dict[str, str] = {}
    details: list[Message] = []
    if isinstance(error, InvalidRequest):
        details.append(error_details_pb2.BadRequest(field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        ]))
        metadata["field"] = error.field
        if isinstance(error, InputTooLong):
            metadata |= {"inputTokenCount": str(error.count), "maxInputTokens": str(error.limit)}
    elif isinstance(error, UnknownModel):
        details.append(error_details_pb2.ResourceInfo(resource_type="model", resource_name=error.name))
    elif isinstance(error, (QueueFull, Loading, EngineStopped, Draining)):
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(retry_seconds(error))))
    metadata |= _facts(error)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details.append(info)
    code = _CODES[type(error)]
    if code == code_pb2.RESOURCE_EXHAUSTED:
        code = overloaded
    return status_pb2.Status(code=code, message=str(error), details=[_pack(part) for part in details])


def _facts(error: ServerError) -> dict[str, str]:
    """Figures that an error carries."""
    if isinstance(error, QueueFull):
        return {"limit": error.limit_name, "wanted": str(error.wanted), "free": str(error.free),
                "max": str(error.limit)}
    if isinstance(error, Quarantined):
        return {"place": str(error.place)}
    if isinstance(error, DeadlineInQueue):
        return {"queueMs": str(int(error.queue_seconds * 1000))}
    if isinstance(error, DeadlineUnreachable):
        return {"leastMs": str(int(error.least_seconds * 1000)),
                "remainingMs": str(int(error.remaining_seconds * 1000))}
    return {}


def internal_status(request_id: str) -> status_pb2.Status:
    """For an exception nobody foresaw: nothing of it reaches the client but the id to look it up by."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)
    return status_pb2.Status(
        code=code_pb2.INTERNAL, message="internal error", details=[_pack(info), _request_info(request_id)]
    )


def retry_seconds(error: ServerError) -> float:
    """When a retry makes sense; negative for never."""
    if isinstance(error, QueueFull):
        return error.retry_after
    return _RETRY_ELSEWHERE_SECONDS if isinstance(error, (Loading, EngineStopped, Draining)) else -1.0


def _request_info(request_id: str) -> any_pb2.Any:
    # Not packed as the others are: this one is made for every refusal, and packing looks its name up each time.
    value = error_details_pb2.RequestInfo(request_id=request_id).SerializeToString()
    return any_pb2.Any(type_url=_REQUEST_INFO_URL, value=value)


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(int(seconds * 1000))
    return duration


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
