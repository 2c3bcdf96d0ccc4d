"""Calls through tritonclient, run by its own interpreter: ``oip_triton.py TARGET CASE ...``; prints a JSON object."""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

MODEL = "pencil"


def text_input(*texts: str, name: str = "text_input", column: bool = False) -> Any:
    elements = np.array([text.encode() for text in texts], dtype=object)
    elements = elements[:, None] if column else elements
    tensor = triton.InferInput(name, list(elements.shape), "BYTES")
    tensor.set_data_from_numpy(elements)
    return tensor


def switch(name: str, value: bool) -> Any:
    tensor = triton.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([value]))
    return tensor


def outputs_of(result: Any) -> dict[str, Any]:
    names = [output.name for output in result.get_response().outputs]
    arrays = {name: result.as_numpy(name) for name in names}
    return {
        name: np.vectorize(bytes.decode, otypes=[object])(array).tolist() if array.dtype == object else array.tolist()
        for name, array in arrays.items()
    }


def error_of(error: InferenceServerException) -> list[Any]:
    return [error.status(), error.message()]


def unary(target: str) -> dict[str, Any]:
    with triton.InferenceServerClient(target) as client:
        told: dict[str, Any] = {
            "live": client.is_server_live(), "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(MODEL),
            "server": client.get_server_metadata(as_json=True)["name"],
            "inputs": [each.name for each in client.get_model_metadata(MODEL).inputs],
            "decoupled": client.get_model_config(MODEL).config.model_transaction_policy.decoupled,
        }
        one = client.infer(MODEL, [text_input("c d")], request_id="seven")
        told["one"], told["id"] = outputs_of(one), one.get_response().id
        told["many"] = outputs_of(client.infer(
            MODEL, [text_input("c d", "a", column=True)], parameters={"num_beams": 2, "length_penalty": 0.5, "n": 2},
            outputs=[triton.InferRequestedOutput("text_output"), triton.InferRequestedOutput("score")],
            priority=1, timeout=60_000_000,
        ))
        told["other name"] = outputs_of(client.infer(MODEL, [text_input("c d", name="input-0")]))["text_output"]
        sample = [text_input("c d"), switch("stream", False), switch("exclude_input_in_output", False),
                  text_input('{"max_tokens": "4", "temperature": "0.5", "seed": 7}', name="sampling_parameters")]
        told["sample"] = outputs_of(client.infer(MODEL, sample))["text_output"]
        for case, model, parameters in (("parameter", MODEL, {"best_of": 2}), ("model", "other", {})):
            try:
                client.infer(model, [text_input("c d")], parameters=parameters)
            except InferenceServerException as error:
                told[case] = error_of(error)
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer(MODEL, [text_input("c d")], enable_empty_final_response=True)
        texts = []
        while True:
            result, problem = answers.get(timeout=60)
            assert problem is None, problem
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
            texts.append(result.as_numpy("text_output")[0].decode())
        client.stop_stream()
        told["stream"], told["empty last"] = "".join(texts), not result.get_response().outputs
    return told


async def streams(target: str) -> dict[str, Any]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for place, text in enumerate(["c d", "a", ""]):
            yield {"model_name": MODEL, "inputs": [text_input(text)], "request_id": str(place)}

    told: dict[str, Any] = {"texts": {}, "final": [], "errors": []}
    async with triton_aio.InferenceServerClient(target) as client:
        async for result, error in client.stream_infer(requests()):
            if error is not None:
                told["errors"].append(error.message())
                continue
            response = result.get_response()
            text = result.as_numpy("text_output")[0].decode()
            told["texts"][response.id] = told["texts"].get(response.id, "") + text
            if response.parameters["triton_final_response"].bool_param:
                told["final"].append(response.id)
    return told


async def cancelled(target: str) -> dict[str, Any]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": MODEL, "inputs": [text_input("c d")]}
        await asyncio.Event().wait()

    async with triton_aio.InferenceServerClient(target) as client:
        answers = client.stream_infer(requests())
        result, _ = await anext(answers)
        return {"first": result.as_numpy("text_output")[0].decode(), "cancelled": answers.cancel()}


def beside_ours(target: str) -> dict[str, Any]:
    """Both clients in this process; and what would happen if ours had the protocol's messages, too."""
    from seqserve_client import Client

    with Client(target) as client:
        told: dict[str, Any] = {"text": client.generate(["c d"])[0].text}
    try:
        from seqserve_server.open_inference import open_inference_pb2  # noqa: F401
    except TypeError as error:
        told["clash"] = "inference." in str(error)
    return told


def secured(target: str, authority: str, token: str) -> dict[str, Any]:
    """Over TLS, with the token, without it, and with another tenant than the token's."""
    headers = {"authorization": f"Bearer {token}"}
    with triton.InferenceServerClient(target, ssl=True, root_certificates=authority) as client:
        told: dict[str, Any] = {"ready": client.is_model_ready(MODEL, headers=headers)}
        told["text"] = outputs_of(client.infer(MODEL, [text_input("c d")], headers=headers))["text_output"]
        for case, sent in (("without", {}), ("tenant", {**headers, "x-tenant": "other"})):
            try:
                client.infer(MODEL, [text_input("c d")], headers=sent)
            except InferenceServerException as error:
                told[case] = error_of(error)
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=headers)
        client.async_stream_infer(MODEL, [text_input("c d"), switch("stream", False)])
        result, problem = answers.get(timeout=60)
        assert problem is None, problem
        told["stream"] = outputs_of(result)["text_output"]
        client.stop_stream()
    return told


if __name__ == "__main__":
    cases: dict[str, Any] = {
        "unary": unary, "streams": streams, "cancelled": cancelled, "beside ours": beside_ours, "secured": secured,
    }
    outcome: Any = cases[sys.argv[2]](sys.argv[1], *sys.argv[3:])
    print(json.dumps(asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome))  # noqa: T201
