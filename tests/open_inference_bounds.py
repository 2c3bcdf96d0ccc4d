"""What goes beyond the bound of each field of the Open Inference Protocol's requests, and what the refusal names."""

from typing import Any

from infer_requests import add_input, infer
from seqserve_server.open_inference import open_inference_pb2 as pb

WORD = "x" * 5000
MANY = 5000
LONG = 65_537  # bytes of a parameter's text, one too many


def about(kind: Any) -> dict[str, list[tuple[Any, str]]]:
    """Name and version of a request about a model: both are looked up."""
    return {"name": [(kind(name=WORD), "NOT_FOUND")], "version": [(kind(version=WORD), "NOT_FOUND")]}


def typed(field: str, value: Any, *, raw: bool = False) -> pb.ModelInferRequest:
    """A good text, and many elements in one list of its tensor's contents."""
    request = infer("c", raw=raw)
    getattr(request.inputs[0].contents, field).extend([value] * MANY)
    return request


def shaped(*shape: int) -> pb.ModelInferRequest:
    return infer("c", shape=list(shape))


def beside(
    name: str, datatype: str, elements: list[Any], shape: list[int] | None = None, *, raw: bool = True
) -> pb.ModelInferRequest:
    """A good text, and another tensor."""
    request = infer("c", raw=raw)
    add_input(request, name, datatype, elements, shape, raw=raw)
    return request


def tensors(count: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for place in range(count):
        add_input(request, f"t{place}", "BYTES", ["c"])
    return request


def of_datatype(datatype: str) -> pb.ModelInferRequest:
    request = infer("c")
    request.inputs[0].datatype = datatype
    return request


def of_input(**parameters: str) -> pb.ModelInferRequest:
    """Parameters of the tensor of texts."""
    request = infer("c")
    for name, value in parameters.items():
        request.inputs[0].parameters[name].string_param = value
    return request


def of_output(**parameters: str) -> pb.ModelInferRequest:
    """Parameters of an output that is asked for."""
    request = infer("c", outputs=["score"])
    for name, value in parameters.items():
        request.outputs[0].parameters[name].string_param = value
    return request


def at_version(version: str) -> pb.ModelInferRequest:
    request = infer("c")
    request.model_version = version
    return request


def with_raw(*contents: bytes) -> pb.ModelInferRequest:
    """A tensor of one text, and these raw contents."""
    request = infer("c")
    request.raw_input_contents[:] = contents
    return request


def only(name: str) -> dict[str, Any]:
    """One parameter."""
    return {name: 1}


IGNORED: dict[str, Any] = {f"triton_{place}": 1 for place in range(65)}
CROWD = {f"p{place}": "x" for place in range(65)}
OTHERS = {
    "int_contents": 1, "int64_contents": 1, "uint_contents": 1, "uint64_contents": 1, "fp32_contents": 1.0,
    "fp64_contents": 1.0,
}  # no tensor of a request has their datatypes: refused whatever they hold
BOUNDS: dict[str, list[tuple[Any, str]]] = {
    **{f"ModelReadyRequest.{field}": tried for field, tried in about(pb.ModelReadyRequest).items()},
    **{f"ModelMetadataRequest.{field}": tried for field, tried in about(pb.ModelMetadataRequest).items()},
    **{f"ModelConfigRequest.{field}": tried for field, tried in about(pb.ModelConfigRequest).items()},
    "InferParameter.string_param": [
        (infer("c", length_penalty="0" * (LONG - 1) + "1"), "parameters.length_penalty"),
        (infer("c", max_tokens="0" * MANY + "1"), "parameters.max_tokens"),
        (infer("c", stop="x" * 257), "parameters.stop[0]"),
        (infer("c", prefix="c" * LONG), "parameters.prefix"),
        (infer("c", banned_phrases="c" * LONG), "parameters.banned_phrases"),
        (infer("c", source_language=WORD), "parameters.source_language"),
        (infer("c", stopping=WORD), "parameters.stopping"),
        (infer("c", headers="x" * LONG), "parameters.headers"),  # these two are not looked at otherwise
        (infer("c", triton_x="x" * LONG), "parameters.triton_x"),
        (of_input(binary_data="x" * LONG), "text_input.parameters.binary_data"),
        (of_output(binary_data="x" * LONG), "score.parameters.binary_data"),
    ],
    **{f"InferTensorContents.{field}": [
        (typed(field, value), "text_input"), (typed(field, value, raw=True), "text_input"),
    ] for field, value in OTHERS.items()},
    "InferTensorContents.bool_contents": [
        (typed("bool_contents", True), "text_input"),
        (beside("stream", "BOOL", [True] * MANY, raw=False), "stream"),
        (beside("stream", "BOOL", [True] * MANY, raw=False, shape=[1]), "stream"),
    ],
    "InferTensorContents.bytes_contents": [
        (infer(*["c"] * 1025, raw=False), "text_input"), (typed("bytes_contents", b"c"), "text_input"),
        (infer("c" * 65_537, raw=False), "text_input[0]"),
        (infer("c", sampling=" " * 65_537, raw=False), "sampling_parameters"),
    ],
    "ModelInferRequest.InferInputTensor.ParametersEntry.key": [
        (of_input(**{WORD: "x"}), "text_input.parameters." + repr("x" * 64)),
    ],
    "ModelInferRequest.InferInputTensor.datatype": [(of_datatype(WORD), "text_input")],
    "ModelInferRequest.InferInputTensor.name": [
        (infer("c", name=WORD), "inputs[0]"), (beside(WORD, "BOOL", [True]), "inputs[1]"),
    ],
    "ModelInferRequest.InferInputTensor.parameters": [(of_input(**CROWD), "text_input.parameters")],
    "ModelInferRequest.InferInputTensor.shape": [
        (shaped(*[1] * 1_000_000), "text_input"), (shaped(1025), "text_input"), (shaped(1, 2**62), "text_input"),
    ],
    "ModelInferRequest.InferRequestedOutputTensor.ParametersEntry.key": [
        (of_output(**{WORD: "x"}), "score.parameters." + repr("x" * 64)),
    ],
    "ModelInferRequest.InferRequestedOutputTensor.name": [(infer("c", outputs=[WORD]), "outputs[0]")],
    "ModelInferRequest.InferRequestedOutputTensor.parameters": [(of_output(**CROWD), "score.parameters")],
    "ModelInferRequest.ParametersEntry.key": [
        (infer("c", **only(WORD)), "parameters." + repr("x" * 64)),
        (infer("c", **only(f"triton_{WORD}")), "parameters." + repr("triton_" + "x" * 57)),
    ],
    "ModelInferRequest.id": [(infer("c", id="x" * 257), "id")],
    "ModelInferRequest.inputs": [(tensors(17), "inputs")],
    "ModelInferRequest.model_name": [(infer("c", model=WORD), "NOT_FOUND")],
    "ModelInferRequest.model_version": [(at_version(WORD), "NOT_FOUND")],
    "ModelInferRequest.outputs": [(infer("c", outputs=["score"] * 17), "outputs")],
    "ModelInferRequest.parameters": [(infer("c", **IGNORED), "parameters")],
    "ModelInferRequest.raw_input_contents": [
        (with_raw(*[b""] * MANY), "raw_input_contents"), (with_raw(bytes(1_000_000)), "text_input"),
        (infer("c" * 65_537), "text_input[0]"), (infer("c", sampling=" " * 65_537), "sampling_parameters"),
        (beside("stream", "BOOL", [True] * MANY), "stream"),
    ],
}
