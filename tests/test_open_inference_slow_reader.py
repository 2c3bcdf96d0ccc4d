"""A caller of many requests on one stream who does not read."""

import asyncio
from typing import Any

import pytest

from infer_requests import infer, sending
from seqserve_server.errors import SlowReader
from seqserve_server.open_inference import multiplex
from seqserve_server.open_inference import open_inference_pb2 as pb


class Deaf:
    """Of a caller who never reads, as a handler's context sees it."""

    async def write(self, message: pb.ModelStreamInferResponse) -> None:
        del message
        await asyncio.Event().wait()


async def test_a_caller_who_does_not_read_loses_the_stream_and_all_that_is_open_on_it() -> None:
    cancelled = []

    async def respond(request: pb.ModelInferRequest, send: multiplex.Send) -> None:
        try:
            if request.id == "1":
                await send(pb.ModelInferResponse())
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.id)
            raise

    context: Any = Deaf()
    with pytest.raises(SlowReader):
        await multiplex.Multiplex(context, respond, 14, 0.01).run(sending(infer("c", id="1"), infer("c", id="2")))
    assert cancelled == ["2"]
