"""Errors as a client sees them: code, ``google.rpc`` details and trailing metadata, unpacked and checked."""

from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from seqserve.v1 import seq2seq_pb2 as pb


class Refusal:
    """An error as a client sees it, its details unpacked."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.message = error.code(), error.details() or ""
        self.trailing = dict(error.trailing_metadata() or ())
        status = rpc_status.from_call(_Call(error))  # type: ignore[arg-type]
        assert status is not None, f"no details: {error}"
        self.details: dict[str, Any] = {}
        for part in status.details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo,
                         error_details_pb2.RequestInfo, error_details_pb2.ResourceInfo):
                if part.Is(kind.DESCRIPTOR):
                    message = kind()
                    part.Unpack(message)
                    self.details[kind.__name__] = message
        assert code_pb2.Code.Name(status.code) == self.code.name
        assert self.details["ErrorInfo"].domain == "seqserve"
        assert self.details["RequestInfo"].request_id == self.trailing["x-request-id"]
        assert not any(bad in self.message for bad in ("Traceback", "/secret", "/work", ".py", "\n"))

    @property
    def reason(self) -> str:
        return str(self.details["ErrorInfo"].reason)

    @property
    def field(self) -> str:
        return str(self.details["BadRequest"].field_violations[0].field)


class _Call:
    """What ``rpc_status.from_call`` wants to see of an error."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details, self.trailing_metadata = error.code, error.details, error.trailing_metadata


async def refusal(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Refusal(caught.value)


async def drained(call: Any) -> list[pb.GenerateStreamResponse]:
    return [message async for message in call]
