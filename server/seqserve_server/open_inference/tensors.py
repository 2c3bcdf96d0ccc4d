"""Tensors of requests to Python values, and answers to tensors. Everything is bounded before it is read."""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.bounds import check_name, check_parameters, shown

MAX_TENSORS = 16
BYTES, BOOL, UINT32, FP64 = "BYTES", "BOOL", "UINT32", "FP64"
_CONTENTS = {BYTES: "bytes_contents", BOOL: "bool_contents", UINT32: "uint_contents", FP64: "fp64_contents"}
_FORMATS = {UINT32: "I", FP64: "d"}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request: its lengths, and its elements in order."""

    shape: tuple[int, ...]
    elements: list[Any]


def check_names(request: pb.ModelInferRequest) -> None:
    """Tensors are not too many, have names of their own, and come either all raw or all typed.

    Raises:
        InvalidRequest: naming the tensor.
    """
    count, raw = len(request.inputs), len(request.raw_input_contents)
    if not 1 <= count <= MAX_TENSORS:
        raise InvalidRequest("inputs", f"{count} tensors are outside 1..{MAX_TENSORS}")
    if raw not in (0, count):
        raise InvalidRequest("raw_input_contents", f"{raw} for {count} inputs: all of them come raw, or none")
    seen: set[str] = set()
    for place, tensor in enumerate(request.inputs):
        if not tensor.name:
            raise InvalidRequest(f"inputs[{place}]", "it has no name")
        check_name(tensor.name, f"inputs[{place}]")
        if tensor.name in seen:
            raise InvalidRequest(shown(tensor.name), "two tensors have this name")
        seen.add(tensor.name)
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(shown(tensor.name), "it has contents, and raw_input_contents are given")
        _check_own_parameters(tensor.name, tensor.parameters)


def check_outputs(
    outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor], known: Sequence[str]
) -> tuple[str, ...]:
    """The names of the tensors that the answer is to have, in order; none for the usual ones.

    Raises:
        InvalidRequest: naming the tensor.
    """
    if len(outputs) > MAX_TENSORS:
        raise InvalidRequest("outputs", f"{len(outputs)} tensors are over {MAX_TENSORS}")
    names = [output.name for output in outputs]
    for place, output in enumerate(outputs):
        if output.name not in known:
            raise InvalidRequest(
                f"outputs[{place}]", f"{shown(output.name)} is no tensor of an answer; there are {', '.join(known)}"
            )
        if names.index(output.name) != place:
            raise InvalidRequest(f"outputs[{place}]", f"{output.name} is asked for twice")
        _check_own_parameters(output.name, output.parameters)
    return tuple(names)


def _check_own_parameters(name: str, parameters: Mapping[str, pb.InferParameter]) -> None:
    """None puts the elements elsewhere, or makes something else of them; the others say how clients pack them."""
    check_parameters(parameters, f"{shown(name)}.parameters")
    for key in ("shared_memory_region", "classification"):
        if key in parameters:
            raise InvalidRequest(shown(name), f"its parameter {key} asks for what is not served")


def read_tensor(request: pb.ModelInferRequest, place: int, datatype: str, most: int) -> Tensor:
    """One tensor of a request that ``check_names`` let through.

    Args:
        datatype: What it has to be, "BYTES" or "BOOL".
        most: How many elements it may have, and one at least; its shape is [n] or [n, 1].

    Raises:
        InvalidRequest: naming the tensor, and of BYTES the element.
    """
    tensor = request.inputs[place]
    name, shape = shown(tensor.name), tuple(tensor.shape[:3])  # the rest of a deep one is nobody's business
    if tensor.datatype != datatype:
        raise InvalidRequest(name, f"its datatype is {shown(tensor.datatype)}, not {datatype}")
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        lengths = ", ".join([*map(str, shape), *["..."] * (len(tensor.shape) > len(shape))])
        raise InvalidRequest(name, f"its shape is [{lengths}], not [n] or [n, 1]")
    if not 1 <= shape[0] <= most:
        raise InvalidRequest(name, f"{shape[0]} elements are outside 1..{most}")
    if request.raw_input_contents:
        read: Callable[[bytes, int, str], list[Any]] = _split if datatype == BYTES else _switches
        elements = read(request.raw_input_contents[place], shape[0], name)
    else:
        elements = _typed(tensor, datatype, shape[0], name)
    if datatype == BYTES:
        elements = [_text(element, f"{name}[{index}]") for index, element in enumerate(elements)]
    return Tensor(shape, elements)


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, datatype: str, count: int, name: str) -> list[Any]:
    wanted = _CONTENTS[datatype]
    if others := [entry.name for entry, _ in tensor.contents.ListFields() if entry.name != wanted]:
        raise InvalidRequest(name, f"it has {others[0]}, and {datatype} is in {wanted}")
    elements = getattr(tensor.contents, wanted)
    if len(elements) != count:
        raise InvalidRequest(name, f"{len(elements)} elements in {wanted}, and its shape says {count}")
    return list(elements)


def _split(raw: bytes, count: int, name: str) -> list[bytes]:
    """Elements, each behind its length as a little-endian uint32."""
    elements, position = [], 0
    for index in range(count):
        if len(raw) - position < _LENGTH.size:
            raise InvalidRequest(name, f"its raw contents end before element {index} of {count}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if length > len(raw) - position:
            raise InvalidRequest(
                f"{name}[{index}]", f"its length is {length}, and {len(raw) - position} bytes of raw contents are left"
            )
        elements.append(raw[position : position + length])
        position += length
    if position < len(raw):
        raise InvalidRequest(name, f"{len(raw) - position} bytes of raw contents are left behind {count} elements")
    return elements


def _switches(raw: bytes, count: int, name: str) -> list[bool]:
    if len(raw) != count:
        raise InvalidRequest(name, f"{len(raw)} bytes of raw contents, and its shape says {count}")
    if any(byte > 1 for byte in raw):
        raise InvalidRequest(name, "a byte of BOOL is neither 0 nor 1")
    return [byte == 1 for byte in raw]


def _text(element: bytes, name: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(name, f"not UTF-8 at byte {error.start}") from None


def add_tensor(
    response: pb.ModelInferResponse, name: str, datatype: str, shape: Sequence[int], elements: Sequence[Any], *,
    raw: bool,
) -> None:
    """Put a tensor into an answer; of BYTES the elements are strings."""
    if math.prod(shape) != len(elements):
        raise AssertionError(f"{len(elements)} elements do not fill {shape}")
    values = [each.encode() for each in elements] if datatype == BYTES else list(elements)
    tensor = response.outputs.add(name=name, datatype=datatype, shape=shape)
    if not raw:
        getattr(tensor.contents, _CONTENTS[datatype]).extend(values)
    elif datatype == BYTES:
        response.raw_output_contents.append(b"".join(_LENGTH.pack(len(each)) + each for each in values))
    else:
        response.raw_output_contents.append(struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values))
