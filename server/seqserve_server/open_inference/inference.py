"""One request of this protocol to texts and options, and answers to its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqserve_server.answers import Answer
from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.bounds import shown
from seqserve_server.open_inference.parameters import SAMPLING_PARAMETERS, Call, read_parameters
from seqserve_server.open_inference.tensors import (
    BOOL,
    BYTES,
    FP64,
    UINT32,
    add_tensor,
    check_names,
    check_outputs,
    read_tensor,
)
from seqserve_server.served_model import ServedModel

TEXT, STREAM = "text_input", "stream"
# Each with one element. The return_ ones leave a tensor out of the usual four where they are false; an answer never
# holds its source, so nothing is left to say to the last, which samples for Triton's vLLM backend always send.
SWITCHES = (
    STREAM, "return_finish_reason", "return_num_input_tokens", "return_num_output_tokens", "exclude_input_in_output"
)
OUTPUTS = {
    "text_output": BYTES, "finish_reason": BYTES, "num_input_tokens": UINT32, "num_output_tokens": UINT32,
    "score": FP64, "num_hypotheses": UINT32,
}
USUAL = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
WHOLE_ONLY = ("score", "num_hypotheses")
MAX_ID_BYTES = 256
FINAL = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Inference:
    """A request as it was read; ``text_name`` is what errors call its tensor of texts, which has ``shape``.

    ``stream`` is None where the caller left it open, ``raw`` whether answers are raw as the request was, ``size`` the
    message's bytes.
    """

    id: str
    text_name: str
    texts: list[str]
    shape: tuple[int, ...]
    stream: bool | None
    call: Call
    outputs: tuple[str, ...]
    raw: bool
    size: int


def read_inference(request: pb.ModelInferRequest, max_inputs: int) -> Inference:
    """Read and check everything but what the model has to say to texts and options.

    Raises:
        InvalidRequest: naming the tensor or the parameter.
    """
    if (size := len(request.id.encode())) > MAX_ID_BYTES:  # it comes back with every part of an answer
        raise InvalidRequest("id", f"{size} bytes are over {MAX_ID_BYTES}")
    check_names(request)
    outputs = check_outputs(request.outputs, list(OUTPUTS))
    text_place = _text_place(request)
    texts, given = None, {}
    for place, tensor in enumerate(request.inputs):
        if place == text_place:
            texts = read_tensor(request, place, BYTES, max_inputs)
        elif tensor.name in (*SWITCHES, SAMPLING_PARAMETERS):
            datatype = BYTES if tensor.name == SAMPLING_PARAMETERS else BOOL
            given[tensor.name] = read_tensor(request, place, datatype, 1).elements[0]
        else:
            known = ", ".join((TEXT, SAMPLING_PARAMETERS, *SWITCHES))
            raise InvalidRequest(shown(tensor.name), f"no such tensor; there are {known}")
    if texts is None:
        raise AssertionError("one of the places is that of the texts")
    usual = tuple(name for name in USUAL if given.get(f"return_{name}", True))
    return Inference(
        request.id, shown(request.inputs[text_place].name), texts.elements, texts.shape, given.get(STREAM),
        read_parameters(request.parameters, given.get(SAMPLING_PARAMETERS)), outputs or usual,
        bool(request.raw_input_contents), request.ByteSize(),
    )


def _text_place(request: pb.ModelInferRequest) -> int:
    """Where the texts are: in ``text_input``, or in the one tensor of BYTES whose name means nothing else."""
    names = [tensor.name for tensor in request.inputs]
    if TEXT in names:
        return names.index(TEXT)
    places = [
        place for place, tensor in enumerate(request.inputs)
        if tensor.datatype == BYTES and tensor.name not in (*SWITCHES, SAMPLING_PARAMETERS)
    ]
    if len(places) != 1:
        found = f"{len(places)} tensors of BYTES could be it" if places else "no tensor of BYTES could be it"
        raise InvalidRequest(TEXT, f"it is missing, and {found}")
    return places[0]


def write_answers(answers: Sequence[Answer], asked: Inference, model: ServedModel) -> pb.ModelInferResponse:
    """Whole answers. With several hypotheses asked for, texts and scores are [n, hypotheses], best first.

    Where a search found fewer, "" and 0 fill up, and num_hypotheses says how many there are.
    """
    wanted = int(asked.call.options.get("num_hypotheses", 1))
    shape = asked.shape if wanted == 1 else (len(answers), wanted)
    found = [answer.hypotheses for answer in answers]
    values: dict[str, list[Any]] = {
        "text_output": _filled([[each.text for each in some] for some in found], wanted, ""),
        "score": _filled([[each.score for each in some] for some in found], wanted, 0.0),
        "finish_reason": [answer.finish_reason for answer in answers],
        "num_input_tokens": [answer.input_token_count for answer in answers],
        "num_output_tokens": [answer.output_token_count for answer in answers],
        "num_hypotheses": [len(some) for some in found],
    }
    response = empty_response(asked, model)
    for name in asked.outputs:
        lengths = shape if name in ("text_output", "score") else asked.shape
        add_tensor(response, name, OUTPUTS[name], lengths, values[name], raw=asked.raw)
    return response


def _filled(rows: Sequence[list[Any]], width: int, filler: Any) -> list[Any]:
    """The elements of rows of one width."""
    return [element for row in rows for element in (*row, *[filler] * (width - len(row)))]


def write_part(
    text: str, input_tokens: int, output_tokens: int, finish_reason: str, asked: Inference, model: ServedModel
) -> pb.ModelInferResponse:
    """A part of a streamed answer: its text, and how many tokens came with it. Only the last has a finish reason."""
    values: dict[str, Any] = {
        "text_output": text, "finish_reason": finish_reason, "num_input_tokens": input_tokens,
        "num_output_tokens": output_tokens,
    }
    response = empty_response(asked, model)
    for name in asked.outputs:
        add_tensor(response, name, OUTPUTS[name], asked.shape, [values[name]], raw=asked.raw)
    return response


def empty_response(asked: Inference, model: ServedModel) -> pb.ModelInferResponse:
    """An answer to this request, without tensors so far."""
    return pb.ModelInferResponse(model_name=model.description.name, model_version=model.version, id=asked.id)
