"""The asyncio client: the methods of ``Client`` as coroutines and asynchronous iterators."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from seqserve.v1 import seq2seq_pb2, seq2seq_pb2_grpc
from seqserve_client import messages, score_messages
from seqserve_client.channel import (
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    UNSET,
    Connection,
    Unset,
)
from seqserve_client.documents import Document, Split
from seqserve_client.errors import Cancelled, ModelNotFound
from seqserve_client.options import GenerationOptions, Metadata, ScoreOptions, metadata_of
from seqserve_client.results import Chunk, Result, ScoreResult, ServerInfo, TokenizedText
from seqserve_client.rpc_errors import error_from
from seqserve_client.security import Tls
from seqserve_client.translation import Progress, Translation, batch_size_of


class AsyncChunkStream(AsyncIterator[Chunk]):
    """Asynchronous iterator over the chunks of one answer; ends and is cancelled as ``ChunkStream`` is."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ended = False
        self._cancelled = False
        # Garbage is collected in whichever thread happens to run, and a call belongs to its loop.
        self._cancel_when_dropped = weakref.finalize(self, _cancel_in_loop, asyncio.get_running_loop(), call)
        self._cancel_when_dropped.atexit = False

    async def __anext__(self) -> Chunk:
        if self._ended:
            raise StopAsyncIteration
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._end()
            raise error_from(error) from error
        except asyncio.CancelledError:
            self._end()
            task = asyncio.current_task()
            if self._cancelled and not (task and task.cancelling()):
                raise Cancelled("the stream was cancelled") from None
            raise
        if message is grpc.aio.EOF:
            self._end()
            raise StopAsyncIteration
        return messages.chunk_from(message)

    def _end(self) -> None:
        self._ended = True
        self._cancel_when_dropped.detach()

    def cancel(self) -> None:
        """Cancel, from the loop's own thread; a task that waits for the next chunk gets ``Cancelled``."""
        self._cancelled = True
        self._call.cancel()

    async def aclose(self) -> None:
        """Cancel and end the iteration; harmless after the end."""
        self.cancel()
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _cancel_in_loop(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call.cancel)


class AsyncClient:
    """Client of one server for asyncio; arguments as for ``Client``.

    It may be made anywhere; it belongs to the event loop of its first call.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        max_attempts: int = 3,
        tls: Tls | bool | None = None,
        token: str | None = None,
    ) -> None:
        self._connection = Connection(target, timeout, max_message_bytes, max_attempts, tls, token)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._health: Any = None
        self._closed = False

    async def generate(
        self,
        texts: Sequence[str] | None = None,
        *,
        tokens: Sequence[Sequence[str]] | None = None,
        token_ids: Sequence[Sequence[int]] | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[GenerationOptions],
    ) -> list[Result]:
        """Generate for every input of one call; see ``Client.generate``."""
        request = messages.generate_request(texts, tokens, token_ids, model, options)
        if not request.inputs:
            return []
        return messages.results_from(await self._call("Generate", request, timeout, metadata_of(options)))

    def stream(
        self,
        text: str | None = None,
        *,
        tokens: Sequence[str] | None = None,
        token_ids: Sequence[int] | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[GenerationOptions],
    ) -> AsyncChunkStream:
        """Generate for one input and yield tokens as they become final; not awaited itself; see ``Client.stream``."""
        request = messages.stream_request(text, tokens, token_ids, model, options)
        return AsyncChunkStream(self._start("GenerateStream", request, timeout, metadata_of(options)))

    async def score(
        self,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        *,
        source_tokens: Sequence[Sequence[str]] | None = None,
        source_token_ids: Sequence[Sequence[int]] | None = None,
        target_tokens: Sequence[Sequence[str]] | None = None,
        target_token_ids: Sequence[Sequence[int]] | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[ScoreOptions],
    ) -> list[ScoreResult]:
        """Log-probabilities of given targets behind given sources; see ``Client.score``."""
        request = score_messages.score_request(
            (sources, source_tokens, source_token_ids), (targets, target_tokens, target_token_ids), model, options
        )
        if not request.pairs:
            return []
        return score_messages.scores_from(await self._call("Score", request, timeout, metadata_of(options)))

    async def translate_document(
        self,
        text: str,
        *,
        split: Split = "sentences",
        language: str | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        on_progress: Progress | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Document:
        """Generate for every sentence of a text of any length; see ``Client.translate_document``."""
        work = Translation(text, split, language or options.get("source_language"), on_progress)
        if work.empty:
            return await work.run_async(self.generate)
        size = batch_size_of(await self.info(timeout=timeout), model)
        return await work.run_async(
            lambda texts: self.generate(texts, model=model, timeout=timeout, **options), batch_size=size
        )

    async def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = False,
        source_language: str | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> list[TokenizedText]:
        """Ids and pieces of texts; see ``Client.tokenize``."""
        request = messages.tokenize_request(texts, model, add_special_tokens, source_language)
        if not request.texts:
            return []
        return messages.tokenized_from(await self._call("Tokenize", request, timeout))

    async def detokenize(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> list[str]:
        """Texts of ids; see ``Client.detokenize``."""
        request = messages.detokenize_request(token_ids, model)
        if not request.token_ids:
            return []
        return list((await self._call("Detokenize", request, timeout)).texts)

    async def info(self, *, timeout: float | Unset | None = UNSET) -> ServerInfo:
        """The models of the server, with their limits and defaults."""
        return messages.info_from(await self._call("GetModelInfo", seq2seq_pb2.GetModelInfoRequest(), timeout))

    async def health(self, service: str = "", *, timeout: float | Unset | None = UNSET) -> bool:
        """Whether the server says SERVING, of itself or of one service; False for a service it does not know."""
        try:
            response = await self._call("Check", health_pb2.HealthCheckRequest(service=service), timeout)
        except ModelNotFound:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def _call(
        self, method: str, request: Any, timeout: float | Unset | None, metadata: Metadata = ()
    ) -> Any:
        try:
            return await self._start(method, request, timeout, metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from error

    def _start(self, method: str, request: Any, timeout: float | Unset | None, metadata: Metadata = ()) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            # Late, because a channel of grpc.aio takes the loop that runs where it is made.
            self._channel = self._connection.open_aio()
            self._stub = seq2seq_pb2_grpc.Seq2SeqServiceStub(self._channel)  # type: ignore[no-untyped-call]
            self._health = health_pb2_grpc.HealthStub(self._channel)
        self._connection.check_size(request)
        stub = self._health if method == "Check" else self._stub
        seconds = self._connection.seconds(timeout)
        return getattr(stub, method)(request, timeout=seconds, metadata=(*self._connection.metadata, *metadata))

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
