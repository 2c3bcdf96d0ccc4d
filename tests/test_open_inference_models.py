"""The Open Inference Protocol over several models, and while versions change under its streams."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from infer_requests import answers_to, infer, is_final, make_stub, tensors_of
from refusals import refusal
from seqserve_server.open_inference import open_inference_pb2 as pb
from serving import ask
from serving import make_stub as make_native
from swapping import LONGEST, TaggedEngine, Toys, outcomes, reloaded, serving_toys


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


class Asked:
    """A stream whose requests are sent one by one, and its answers."""

    def __init__(self, stub: Any) -> None:
        self._queue: asyncio.Queue[pb.ModelInferRequest | None] = asyncio.Queue()
        self._answers = stub.ModelStreamInfer(self._requests())

    async def _requests(self) -> AsyncIterator[pb.ModelInferRequest]:
        while (request := await self._queue.get()) is not None:
            yield request

    def send(self, request: pb.ModelInferRequest | None) -> None:
        self._queue.put_nowait(request)

    async def answer(self) -> tuple[str, str]:
        """Version and text of the next answer, whose parts come one after the other."""
        text = ""
        while True:
            message = await self._answers.read()
            assert message is not grpc.aio.EOF
            assert not message.error_message
            found = tensors_of(message.infer_response)
            text += found["text_output"][0] if found else ""
            if is_final(message):
                return message.infer_response.model_version, text


async def text_of(stub: Any, model: str = "") -> str:
    """What the native service answers."""
    response = await stub.Generate(ask("c d", model=model, max_new_tokens=LONGEST))
    return str(response.results[0].hypotheses[0].text)


def wanted(model: str = "", **more: Any) -> pb.ModelInferRequest:
    return infer("c d", model=model, max_tokens=LONGEST, **more)


async def test_a_request_gets_the_model_it_names_alone_and_in_one_stream(toys: Toys) -> None:
    toys.write("models/de", 0, name="de")
    toys.write("models/fr/2", 2, name="fr")
    async with serving_toys(toys, toys.directory / "models") as (_, channel):
        stub, native = make_stub(channel), make_native(channel)
        texts = {name: await text_of(native, name) for name in ("de", "fr")}
        assert texts["de"] != texts["fr"]
        for name, text in texts.items():
            response = await stub.ModelInfer(wanted(name))
            assert (response.model_name, tensors_of(response)["text_output"]) == (name, [text])
            assert (await stub.ModelReady(pb.ModelReadyRequest(name=name))).ready
            metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
            assert list(metadata.versions) == [response.model_version]
        messages = await answers_to(stub, *(wanted(name, id=name, stream=False) for name in ("fr", "de", "fr", "nl")))
        answers = [each.infer_response for each in messages if not each.error_message]
        assert sorted((each.id, tensors_of(each)["text_output"][0]) for each in answers) == sorted(
            (name, texts[name]) for name in ("fr", "de", "fr")
        )
        (wrong,) = (each for each in messages if each.error_message)
        assert (wrong.infer_response.id, wrong.error_message[:9]) == ("nl", "NOT_FOUND")


async def test_without_a_name_or_with_another_models_version_the_caller_is_told(toys: Toys) -> None:
    for place, name in enumerate(("de", "fr")):
        toys.write(f"models/{name}", place, name=name)
    async with serving_toys(toys, toys.directory / "models") as (server, channel):
        stub = make_stub(channel)
        versions = {each.model.description.name: each.model.version for each in server.models.servings}
        for call in (stub.ModelInfer(wanted()), stub.ModelReady(pb.ModelReadyRequest())):
            nameless = await refusal(call)
            assert nameless.code is grpc.StatusCode.INVALID_ARGUMENT
            assert nameless.message == "model: several models are served, name one of: de, fr"
        request = wanted("de")
        request.model_version = versions["fr"]
        assert (await refusal(stub.ModelInfer(request))).code is grpc.StatusCode.NOT_FOUND
        request.model_version = versions["de"]
        assert (await stub.ModelInfer(request)).model_version == versions["de"]


async def test_a_stream_goes_on_over_a_swap_each_request_with_the_version_it_began_with(toys: Toys) -> None:
    toys.write("v0", 0, name="toy")
    async with serving_toys(toys, toys.turn("current", "v0")) as (server, channel):
        stream, native = Asked(make_stub(channel)), make_native(channel)
        old = server.models.servings[0].model.version, await text_of(native)
        engine = server.models.servings[0].model.engine
        assert isinstance(engine, TaggedEngine)
        engine.hold()
        try:
            stream.send(wanted(id="held"))
            await asyncio.to_thread(engine.stepping.wait, 30)
            toys.write("v1", 1, name="toy")
            toys.turn("current", "v1")
            server.reload.set()
            while not toys.tried:
                await asyncio.sleep(0.002)
        finally:
            engine.allow()
        del engine
        assert await stream.answer() == old
        while not outcomes(server)["swapped"]:
            await asyncio.sleep(0.002)
        new = server.models.servings[0].model.version, await text_of(native)
        assert new != old
        stream.send(wanted(id="after"))
        assert await stream.answer() == new
        while toys.alive > 1:  # the stream, which is still open, holds no version
            await asyncio.sleep(0.002)
        toys.write("v2", 2, name="toy")
        toys.turn("current", "v2")
        await reloaded(server, 1)
        stream.send(wanted(id="last"))
        last = await stream.answer()
        assert last == (server.models.servings[0].model.version, await text_of(native))
        assert last not in (old, new)
        stream.send(None)
