"""Requests of the Open Inference Protocol as clients build them, and answers as they read them."""

import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference import open_inference_pb2_grpc

FINAL = "triton_final_response"
CONTENTS = {"BYTES": "bytes_contents", "BOOL": "bool_contents", "UINT32": "uint_contents", "FP64": "fp64_contents"}


def make_stub(channel: grpc.aio.Channel) -> Any:
    """The service on a channel."""
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


def packed(elements: Iterable[bytes | str]) -> bytes:
    """Raw BYTES."""
    encoded = [each.encode() if isinstance(each, str) else each for each in elements]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def add_input(
    request: pb.ModelInferRequest, name: str, datatype: str, elements: Iterable[Any], shape: list[int] | None = None, *,
    raw: bool = True,
) -> None:
    """Add a tensor of BYTES or BOOL."""
    elements = list(elements)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(elements)] if shape is None else shape)
    if raw:
        request.raw_input_contents.append(packed(elements) if datatype == "BYTES" else bytes(elements))
    else:
        values = [each.encode() if isinstance(each, str) else each for each in elements]
        getattr(tensor.contents, CONTENTS[datatype]).extend(values)


def infer(
    *texts: str | bytes, model: str = "", id: str = "", name: str = "text_input", shape: list[int] | None = None,
    raw: bool = True, stream: bool | None = None, sampling: str | None = None, outputs: Iterable[str] = (),
    switches: dict[str, bool] | None = None, **parameters: Any,
) -> pb.ModelInferRequest:
    """A request; parameters take the field that a Python value of theirs has in tritonclient."""
    request = pb.ModelInferRequest(model_name=model, id=id)
    add_input(request, name, "BYTES", texts, shape, raw=raw)
    if sampling is not None:
        add_input(request, "sampling_parameters", "BYTES", [sampling], raw=raw)
    for switch, value in {**({} if stream is None else {"stream": stream}), **(switches or {})}.items():
        add_input(request, switch, "BOOL", [value], raw=raw)
    for output in outputs:
        request.outputs.add(name=output)
    for key, value in parameters.items():
        kinds = ((str, "string_param"), (bool, "bool_param"), (int, "int64_param"), (float, "double_param"))
        setattr(request.parameters[key], next(field for kind, field in kinds if isinstance(value, kind)), value)
    return request


def tensors_of(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    """Elements of an answer's tensors by name; texts as strings."""
    raw = list(response.raw_output_contents)
    assert len(raw) in (0, len(response.outputs))
    found: dict[str, list[Any]] = {}
    for place, tensor in enumerate(response.outputs):
        assert not (raw and tensor.HasField("contents"))
        if raw:
            elements = _unpacked(raw[place], tensor.datatype)
        else:
            (field, _), = tensor.contents.ListFields()
            assert field.name == CONTENTS[tensor.datatype]
            elements = list(getattr(tensor.contents, field.name))
        found[tensor.name] = [each.decode() if isinstance(each, bytes) else each for each in elements]
    return found


def _unpacked(raw: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        size, letter = {"UINT32": (4, "I"), "FP64": (8, "d")}[datatype]
        return list(struct.unpack(f"<{len(raw) // size}{letter}", raw))
    elements = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        elements.append(raw[4 : 4 + length])
        assert len(elements[-1]) == length
        raw = raw[4 + length :]
    return elements


async def sending(*requests: pb.ModelInferRequest) -> AsyncIterator[pb.ModelInferRequest]:
    """What a stream's caller sends."""
    for request in requests:
        yield request


async def answers_to(stub: Any, *requests: pb.ModelInferRequest) -> list[pb.ModelStreamInferResponse]:
    """Everything that a stream answers."""
    return [message async for message in stub.ModelStreamInfer(sending(*requests))]


def is_final(message: pb.ModelStreamInferResponse) -> bool:
    """Whether it is its request's last."""
    return bool(message.infer_response.parameters[FINAL].bool_param)
