"""The gRPC service: message to requests, events to messages. Everything else happens elsewhere."""

from collections.abc import Sequence
from contextlib import aclosing

from seqserve import __version__
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve.v1 import seq2seq_pb2_grpc
from seqserve_server import answers
from seqserve_server.answers import Asked, GrowingAnswer, answer_of, with_attention
from seqserve_server.attention import pairs_of, scorable, weights_of
from seqserve_server.call_record import CURRENT
from seqserve_server.calls import Context, deadline_of, guarded
from seqserve_server.dispatch import Dispatcher
from seqserve_server.errors import InvalidRequest, Loading, UnknownModel
from seqserve_server.messages import read_inputs, write_answer, write_model_info, write_tokenized
from seqserve_server.request import Finished
from seqserve_server.score_messages import contents_of, read_score_options, write_score
from seqserve_server.scores import read_pairs, score_of
from seqserve_server.served_model import ServedModel
from seqserve_server.tokenizing import Tokenizing


class Seq2SeqService(seq2seq_pb2_grpc.Seq2SeqServiceServicer):
    """Handlers are coroutines, streams too: an abandoned generator's ``finally`` would run at no certain time."""

    def __init__(self, dispatcher: Dispatcher, *, max_inputs: int, max_text_bytes: int, max_waiting: int) -> None:
        self._dispatcher = dispatcher
        self._served: ServedModel | None = None
        self._max_inputs, self._max_text_bytes, self._max_waiting = max_inputs, max_text_bytes, max_waiting
        self._tokenizing = Tokenizing(max_inputs=max_inputs, max_text_bytes=max_text_bytes)

    def serve(self, model: ServedModel) -> None:
        """From here on calls are answered; before, they are told that the model is loading."""
        self._served = model

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Unary generation for a batch of inputs."""
        async def answer() -> pb.GenerateResponse:
            model = self._find(request.model)
            count = len(request.inputs)
            if not 1 <= count <= self._max_inputs:
                raise InvalidRequest("inputs", f"{count} inputs are outside 1..{self._max_inputs}")
            asked = read_inputs(
                request.inputs, request.options, model, field="inputs",
                max_text_bytes=self._max_text_bytes, deadline=deadline_of(context),
            )
            ended = await self._dispatcher.generate([each.request for each in asked])
            found = await self._answers(asked, ended, model)
            return pb.GenerateResponse(results=[write_answer(answer) for answer in found])

        return await guarded(context, answer)

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> None:
        """Streamed generation for one input. What piled up while a write was under way goes into one message."""
        async def answer() -> None:
            model = self._find(request.model)
            asked = read_inputs(
                [request.input], request.options, model, field="input",
                max_text_bytes=self._max_text_bytes, deadline=deadline_of(context),
            )[0]
            growing = GrowingAnswer(asked, model.tokenizer)
            # Closed here and now however this ends: a request must not run on for a caller that is gone.
            async with aclosing(self._dispatcher.stream(asked.request)) as parts:
                async for part in parts:
                    if isinstance(part, Finished):
                        (answer,) = await self._answers([asked], [part], model)
                        text, ids = growing.finish(answer)
                        result = write_answer(answer)
                        await context.write(pb.GenerateStreamResponse(text=text, token_ids=ids, result=result))
                    else:
                        text, ids = growing.push(part)
                        await context.write(pb.GenerateStreamResponse(text=text, token_ids=ids))

        await guarded(context, answer)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Log-probabilities of given targets."""
        async def answer() -> pb.ScoreResponse:
            model = self._find(request.model)
            count = len(request.pairs)
            if not 1 <= count <= self._max_inputs:
                raise InvalidRequest("pairs", f"{count} pairs are outside 1..{self._max_inputs}")
            asked = read_pairs(
                contents_of(request.pairs), read_score_options(request.options), model,
                max_text_bytes=self._max_text_bytes, deadline=deadline_of(context),
            )
            ended = await self._dispatcher.score([each.request for each in asked])
            return pb.ScoreResponse(results=[
                write_score(score_of(end, each, model)) for each, end in zip(asked, ended, strict=True)
            ])

        return await guarded(context, answer)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Texts to source ids."""
        async def answer() -> pb.TokenizeResponse:
            results = await self._tokenizing.tokenize(
                request.texts, self._find(request.model), write_tokenized,
                add_special_tokens=request.add_special_tokens,
                source_language=request.source_language if request.HasField("source_language") else None,
            )
            return pb.TokenizeResponse(results=results)

        return await guarded(context, answer)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Target ids to texts."""
        async def answer() -> pb.DetokenizeResponse:
            sequences = [sequence.ids for sequence in request.token_ids]
            return pb.DetokenizeResponse(texts=await self._tokenizing.detokenize(sequences, self._find(request.model)))

        return await guarded(context, answer)

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        """What is served, with limits and defaults."""
        async def answer() -> pb.GetModelInfoResponse:
            info = write_model_info(self._find(""), self._max_inputs, self._max_waiting)
            return pb.GetModelInfoResponse(models=[info], server_version=__version__)

        del request  # it has no fields
        return await guarded(context, answer)

    async def _answers(
        self, asked: Sequence[Asked], ended: Sequence[Finished], model: ServedModel
    ) -> list[answers.Answer]:
        """Answers to inputs of one call, after a pass of the scorer where its options ask for attention."""
        if not asked[0].options.wants_attention:
            return [answer_of(end, each, model.tokenizer) for each, end in zip(asked, ended, strict=True)]
        pairs = [
            pairs_of(end, each.request, each.options, model.description.eos_id)
            for each, end in zip(asked, ended, strict=True)
        ]
        wanted = [pair for some in pairs for pair in some if scorable(pair)]
        scored = iter(await self._dispatcher.score(wanted, admitted=True))
        return [
            with_attention(end, weights_of(some, scored), each, model)
            for each, end, some in zip(asked, ended, pairs, strict=True)
        ]

    def _find(self, name: str) -> ServedModel:
        if self._served is None:
            raise Loading
        if name and name != self._served.description.name:
            raise UnknownModel(name[:64], [self._served.description.name])
        if (call := CURRENT.get()) is not None:
            call.model = self._served.description.name
        return self._served
