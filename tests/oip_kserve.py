"""Calls through KServe's client, run by its own interpreter: ``oip_kserve.py TARGET CASE ...``; prints JSON."""

import asyncio
import json
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODEL = "pencil"


def request_of(*tensors: Any, **parameters: Any) -> Any:
    return InferRequest(model_name=MODEL, request_id="seven", infer_inputs=list(tensors), parameters=parameters or None)


def typed(*texts: str) -> Any:
    return InferInput("input-0", [len(texts)], "BYTES", data=list(texts))


def outputs_of(response: Any) -> dict[str, Any]:
    return {
        output.name: output.as_string() if output.datatype == "BYTES" and hasattr(output, "as_string")
        else [each.decode() if isinstance(each, bytes) else each for each in output.as_numpy().ravel().tolist()]
        for output in response.outputs
    }


async def calls(target: str) -> dict[str, Any]:
    async with InferenceGRPCClient(target) as client:
        told: dict[str, Any] = {
            "live": await client.is_server_live(), "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
        }
        one = await client.infer(request_of(typed("c d")))
        told["one"], told["id"], told["model"] = outputs_of(one), one.id, one.model_name
        # It has neither floats nor unsigned numbers among its parameters: those go as strings.
        many = request_of(typed("c d", "a"), num_beams=2, length_penalty="0.5")
        told["many"] = outputs_of(await client.infer(many))["text_output"]
        raw = InferInput("text_input", [1], "BYTES")
        raw.set_data_from_numpy(np.array([b"c d"], dtype=object), binary_data=True)
        told["raw"] = outputs_of(await client.infer(request_of(raw)))["text_output"]
        for case, request in (("parameter", request_of(typed("c d"), best_of=2)), ("empty", request_of(typed("")))):
            try:
                await client.infer(request)
            except grpc.RpcError as error:
                told[case] = [error.code().name, error.details()]
    return told


async def refused(target: str) -> dict[str, Any]:
    """A full queue, as it looks after this client's three attempts."""
    async with InferenceGRPCClient(target) as client:
        try:
            await client.infer(request_of(typed("c d")))
        except grpc.RpcError as error:
            return {"refused": [error.code().name, error.details()]}
    return {}


async def secured(target: str, authority: str, token: str) -> dict[str, Any]:
    """Over TLS, with the token and without it."""
    headers = (("authorization", f"Bearer {token}"),)
    async with InferenceGRPCClient(target, use_ssl=True, root_certificates=authority) as client:
        told: dict[str, Any] = {"ready": await client.is_model_ready(MODEL, headers=headers)}
        told["text"] = outputs_of(await client.infer(request_of(typed("c d")), headers=headers))["text_output"]
        try:
            await client.infer(request_of(typed("c d")))
        except grpc.RpcError as error:
            told["without"] = error.code().name
    return told


if __name__ == "__main__":
    cases: dict[str, Any] = {"calls": calls, "refused": refused, "secured": secured}
    print(json.dumps(asyncio.run(cases[sys.argv[2]](sys.argv[1], *sys.argv[3:]))))  # noqa: T201
