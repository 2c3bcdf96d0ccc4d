"""The service: finds the model, reads a request, has it answered. What a stream adds is in ``multiplex``."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import ClassVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import code_pb2

from seqserve import __version__
from seqserve_server.answers import Answer, Asked
from seqserve_server.calls import Answer as Reply
from seqserve_server.calls import Context, deadline_of, guarded, tenant_of
from seqserve_server.errors import InvalidRequest, Loading, UnknownModel
from seqserve_server.generation import generate, stream
from seqserve_server.open_inference import SERVICE_NAME, open_inference_pb2_grpc
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.inference import (
    FINAL,
    STREAM,
    WHOLE_ONLY,
    Inference,
    empty_response,
    read_inference,
    write_answers,
    write_part,
)
from seqserve_server.open_inference.model_metadata import EXTENSIONS, write_config, write_metadata
from seqserve_server.open_inference.multiplex import Multiplex, Send, sooner
from seqserve_server.open_inference.parameters import as_called
from seqserve_server.reading import named_options, read_requests, resolve
from seqserve_server.served_model import ServedModel
from seqserve_server.served_models import ServedModels, Serving

SERVER_NAME = "seqserve"
# Triton answers so where its queue is full, and clients of this protocol retry nothing else.
OVERLOADED = code_pb2.UNAVAILABLE


class OpenInferenceService(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Handlers are coroutines, as those of the native service, and share with it everything behind the messages.

    Attributes:
        admitted: As of the native service. A stream is not among them: its requests are admitted one by one.
    """

    admitted: ClassVar = {f"/{SERVICE_NAME}/ModelInfer": OVERLOADED}

    def __init__(
        self, models: ServedModels, ready: Callable[[], bool], *, max_inputs: int, max_text_bytes: int,
        write_timeout_seconds: float,
    ) -> None:
        """``ready`` says whether calls are answered now."""
        self._models, self._ready = models, ready
        self._max_inputs, self._max_text_bytes = max_inputs, max_text_bytes
        self._write_timeout = write_timeout_seconds

    @property
    def descriptor(self) -> ServiceDescriptor:
        """What it serves."""
        service: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        return service

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server that has not started serve it."""
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Always."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """As the health service says."""
        del request

        async def answer() -> pb.ServerReadyResponse:
            return pb.ServerReadyResponse(ready=self._ready())

        return await _guarded(context, answer)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """While nothing is loaded no model is ready, whatever its name."""
        async def answer() -> pb.ModelReadyResponse:
            try:
                with self._use(request.name, request.version):
                    pass
            except Loading:
                return pb.ModelReadyResponse(ready=False)
            return pb.ModelReadyResponse(ready=self._ready())

        return await _guarded(context, answer)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Its tensors."""
        async def answer() -> pb.ModelMetadataResponse:
            with self._use(request.name, request.version) as serving:
                return write_metadata(serving.model)

        return await _guarded(context, answer)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Its tensors, in Triton's form."""
        async def answer() -> pb.ModelConfigResponse:
            with self._use(request.name, request.version) as serving:
                return pb.ModelConfigResponse(config=write_config(serving.model))

        return await _guarded(context, answer)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Whole answers to all texts of one call."""
        async def answer() -> pb.ModelInferResponse:
            with self._use(request.model_name, request.model_version) as serving:
                inference = read_inference(request, self._max_inputs)
                if inference.stream:
                    raise InvalidRequest(STREAM, "a call of ModelInfer gets one answer; ModelStreamInfer streams")
                answers = await self._whole(inference, serving, context)
                return write_answers(answers, inference, serving.model)

        return await _guarded(context, answer)

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        """Answers to whatever comes, in any order."""
        async def answer() -> None:
            respond = partial(self._responses, context)
            await Multiplex(context, respond, OVERLOADED, self._write_timeout).run(requests)

        await _guarded(context, answer)

    @contextmanager
    def _use(self, name: str, version: str) -> Iterator[Serving]:
        """The version that a request works with to its end.

        Raises:
            UnknownModel: no model of this name, or not in this version; and what ``ServedModels.use`` raises.
        """
        with self._models.use(name) as serving:
            served, known = serving.model.description.name, serving.model.version
            if version and version != known:
                raise UnknownModel(f"{served} {version[:64]}", [f"{served} {known}"])
            yield serving

    async def _whole(self, inference: Inference, serving: Serving, context: Context) -> list[Answer]:
        asked = self._read(inference, serving, context, streamed=False)
        return await generate(asked, serving, size=inference.size)

    async def _responses(self, context: Context, request: pb.ModelInferRequest, send: Send) -> None:
        """Answer one request of a stream. A single text is streamed unless it says otherwise, several are not."""
        with self._use(request.model_name, request.model_version) as serving:
            inference = read_inference(request, self._max_inputs)
            streamed = len(inference.texts) == 1 if inference.stream is None else inference.stream
            if streamed:
                _check_streamed(inference)
                asked = self._read(inference, serving, context, streamed=True)[0]
                await self._send_parts(asked, inference, serving, send)
            else:
                answers = await self._whole(inference, serving, context)
                await _send_last(write_answers(answers, inference, serving.model), inference, serving.model, send)

    async def _send_parts(
        self, asked: Asked, inference: Inference, serving: Serving, send: Send
    ) -> None:
        """Parts whose texts and counts of tokens add up to the whole answer's; those without text wait for the next."""
        model, length, told = serving.model, len(asked.request.source), 0
        unsent = -len(asked.options.prefix)  # it comes with the first part, but was not generated
        async with aclosing(stream(asked, serving, size=inference.size)) as parts:
            async for part in parts:
                unsent += len(part.token_ids)
                if (whole := part.result) is not None:
                    rest = whole.output_token_count - told
                    response = write_part(part.text, length, rest, whole.finish_reason, inference, model)
                    await _send_last(response, inference, model, send)
                elif part.text:
                    response = write_part(part.text, length, unsent, "", inference, model)
                    response.parameters[FINAL].bool_param = False
                    await send(response)
                    told, unsent = told + unsent, 0

    def _read(
        self, inference: Inference, serving: Serving, context: Context, *, streamed: bool
    ) -> list[Asked]:
        """Requests that are checked and complete; errors name what the caller named."""
        name, call, model, tenant = inference.text_name, inference.call, serving.model, tenant_of(context)
        serving.dispatcher.check_room(len(inference.texts), inference.size, tenant)
        if model.tokenizer is None:
            raise InvalidRequest(name, "this model has no tokenizer; Seq2SeqService takes tokens and ids")
        try:
            return read_requests(
                [("text", text) for text in inference.texts],
                [f"{name}[{place}]" for place in range(len(inference.texts))],
                resolve(named_options(call.options, model, max_text_bytes=self._max_text_bytes), model), model,
                streamed=streamed, max_text_bytes=self._max_text_bytes, tenant=tenant,
                deadline=sooner(deadline_of(context), call.timeout),
            )
        except InvalidRequest as error:
            raise as_called(error, call.called) from None


def _check_streamed(inference: Inference) -> None:
    """What parts of an answer can tell.

    Raises:
        InvalidRequest: naming what they cannot.
    """
    if len(inference.texts) > 1:
        raise InvalidRequest(STREAM, f"{len(inference.texts)} texts; one is answered in parts")
    if untold := [name for name in inference.outputs if name in WHOLE_ONLY]:
        raise InvalidRequest("outputs", f"{untold[0]} is known at the end only; it needs a {STREAM} of false")
    if (count := inference.call.options.get("num_hypotheses", 1)) > 1:
        field = inference.call.called["num_hypotheses"]
        raise InvalidRequest(field, f"{count}: parts are of the best one; it needs a {STREAM} of false")


async def _send_last(
    response: pb.ModelInferResponse, inference: Inference, model: ServedModel, send: Send
) -> None:
    """The last answer with tensors; who asked for it gets an empty one behind it, which then is the final one."""
    response.parameters[FINAL].bool_param = not inference.call.empty_final
    await send(response)
    if inference.call.empty_final:
        empty = empty_response(inference, model)
        empty.parameters[FINAL].bool_param = True
        await send(empty)


async def _guarded(context: Context, answer: Callable[[], Awaitable[Reply]]) -> Reply:
    return await guarded(context, answer, overloaded=OVERLOADED)
