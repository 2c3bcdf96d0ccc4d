"""One log line when a call ends; never with what the caller sent, other than ids."""

import logging

import grpc

from seqserve_server.call_record import Call

logger = logging.getLogger(__name__)
_OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_SCARCE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def log_end(call: Call, code: grpc.StatusCode, now: float) -> None:
    """Error where the server failed, warning where it could not serve, else info: a caller's mistake is no trouble.

    Args:
        now: When it ended, on the monotonic clock.
    """
    level = logging.ERROR if code in _OURS else logging.WARNING if code in _SCARCE else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {  # the call's ids are in every line that is written for it
        "grpc.method": call.method, "grpc.code": code.name, "duration_ms": _milliseconds(now - call.begun),
        "peer": call.peer,
    }
    if call.model:
        fields["model"] = call.model
    if call.requests:
        fields |= {
            "requests": call.requests, "input_tokens": call.input_tokens, "output_tokens": call.output_tokens,
        }
    for name, (begun, ended) in call.stages.items():
        fields[f"{name}_ms"] = _milliseconds(ended - begun)
    if call.reason:
        fields["reason"] = call.reason
    logger.log(level, "call ended", extra={"fields": fields})


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
