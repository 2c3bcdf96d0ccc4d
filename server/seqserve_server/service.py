"""The gRPC service: message to requests, events to messages. Everything else happens elsewhere."""

from contextlib import aclosing
from typing import ClassVar

from google.rpc import code_pb2

from seqserve import __version__
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve.v1 import seq2seq_pb2_grpc
from seqserve_server.calls import Context, deadline_of, guarded, tenant_of, write
from seqserve_server.errors import InvalidRequest
from seqserve_server.generation import generate, stream
from seqserve_server.messages import read_inputs, write_answer, write_model_info, write_tokenized
from seqserve_server.score_messages import contents_of, read_score_options, write_score
from seqserve_server.scores import read_pairs, score_of
from seqserve_server.served_models import ServedModels
from seqserve_server.tokenizing import Tokenizing

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Seq2SeqService"].full_name


class Seq2SeqService(seq2seq_pb2_grpc.Seq2SeqServiceServicer):
    """Handlers are coroutines, streams too: an abandoned generator's ``finally`` would run at no certain time.

    Attributes:
        admitted: Paths of the methods that bring requests to the gate, and the code for those it refuses.
    """

    admitted: ClassVar = {
        f"/{SERVICE_NAME}/{name}": code_pb2.RESOURCE_EXHAUSTED for name in ("Generate", "GenerateStream", "Score")
    }

    def __init__(
        self, models: ServedModels, *, max_inputs: int, max_text_bytes: int, max_waiting: int,
        write_timeout_seconds: float = 0,
    ) -> None:
        """``write_timeout_seconds``: how long the client of a stream may leave a message; 0 for as long as it likes."""
        self._models, self._write_timeout = models, write_timeout_seconds
        self._max_inputs, self._max_text_bytes, self._max_waiting = max_inputs, max_text_bytes, max_waiting
        self._tokenizing = Tokenizing(max_inputs=max_inputs, max_text_bytes=max_text_bytes)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Unary generation for a batch of inputs."""
        async def answer() -> pb.GenerateResponse:
            with self._models.use(request.model) as serving:
                count = len(request.inputs)
                if not 1 <= count <= self._max_inputs:
                    raise InvalidRequest("inputs", f"{count} inputs are outside 1..{self._max_inputs}")
                tenant, size = tenant_of(context), request.ByteSize()
                serving.dispatcher.check_room(count, size, tenant)
                asked = read_inputs(
                    request.inputs, request.options, serving.model, field="inputs",
                    max_text_bytes=self._max_text_bytes, deadline=deadline_of(context), tenant=tenant,
                )
                found = await generate(asked, serving, size=size)
                return pb.GenerateResponse(results=[write_answer(answer) for answer in found])

        return await guarded(context, answer)

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> None:
        """Streamed generation for one input. What piled up while a write was under way goes into one message."""
        async def answer() -> None:
            with self._models.use(request.model) as serving:
                tenant, size = tenant_of(context), request.ByteSize()
                serving.dispatcher.check_room(1, size, tenant)
                asked = read_inputs(
                    [request.input], request.options, serving.model, field="input",
                    max_text_bytes=self._max_text_bytes, deadline=deadline_of(context), tenant=tenant,
                )[0]
                async with aclosing(stream(asked, serving, size=size)) as parts:
                    async for part in parts:
                        result = None if part.result is None else write_answer(part.result)
                        message = pb.GenerateStreamResponse(text=part.text, token_ids=part.token_ids, result=result)
                        await write(context, message, self._write_timeout)

        await guarded(context, answer)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Log-probabilities of given targets."""
        async def answer() -> pb.ScoreResponse:
            with self._models.use(request.model) as serving:
                count = len(request.pairs)
                if not 1 <= count <= self._max_inputs:
                    raise InvalidRequest("pairs", f"{count} pairs are outside 1..{self._max_inputs}")
                tenant, size = tenant_of(context), request.ByteSize()
                serving.dispatcher.check_room(count, size, tenant)
                asked = read_pairs(
                    contents_of(request.pairs), read_score_options(request.options), serving.model,
                    max_text_bytes=self._max_text_bytes, deadline=deadline_of(context), tenant=tenant,
                )
                ended = await serving.dispatcher.score([each.request for each in asked], size=size)
                return pb.ScoreResponse(results=[
                    write_score(score_of(end, each, serving.model)) for each, end in zip(asked, ended, strict=True)
                ])

        return await guarded(context, answer)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Texts to source ids."""
        async def answer() -> pb.TokenizeResponse:
            with self._models.use(request.model) as serving:
                results = await self._tokenizing.tokenize(
                    request.texts, serving.model, write_tokenized, add_special_tokens=request.add_special_tokens,
                    source_language=request.source_language if request.HasField("source_language") else None,
                )
                return pb.TokenizeResponse(results=results)

        return await guarded(context, answer)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Target ids to texts."""
        async def answer() -> pb.DetokenizeResponse:
            with self._models.use(request.model) as serving:
                sequences = [sequence.ids for sequence in request.token_ids]
                return pb.DetokenizeResponse(texts=await self._tokenizing.detokenize(sequences, serving.model))

        return await guarded(context, answer)

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        """What is served, with limits and defaults."""
        async def answer() -> pb.GetModelInfoResponse:
            models = [write_model_info(each, self._max_inputs, self._max_waiting) for each in self._models.all()]
            return pb.GetModelInfoResponse(models=models, server_version=__version__)

        del request  # it has no fields
        return await guarded(context, answer)
