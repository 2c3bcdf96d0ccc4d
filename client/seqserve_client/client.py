"""The blocking client."""

import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
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
from seqserve_client.errors import ModelNotFound
from seqserve_client.options import GenerationOptions, Metadata, ScoreOptions, metadata_of
from seqserve_client.results import Chunk, Result, ScoreResult, ServerInfo, TokenizedText
from seqserve_client.rpc_errors import error_from
from seqserve_client.security import Tls
from seqserve_client.translation import Progress, Translation, batch_size_of


class ChunkStream(Iterator[Chunk]):
    """Iterator over the chunks of one answer.

    The call is cancelled, and its place in the server's batch given back, by ``cancel()``, ``close()``, leaving a
    ``with`` block, or dropping the last reference, so that a ``break`` out of ``for chunk in client.stream(...)``
    suffices.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ended = False
        # Not left to the call object's own garbage collection, which cancels nothing in some gRPC releases.
        self._cancel_when_dropped = weakref.finalize(self, call.cancel)
        self._cancel_when_dropped.atexit = False

    def __next__(self) -> Chunk:
        if self._ended:
            raise StopIteration
        try:
            return messages.chunk_from(next(self._call))
        except StopIteration:
            self._end()
            raise
        except grpc.RpcError as error:
            self._end()
            raise error_from(error) from error

    def _end(self) -> None:
        self._ended = True
        self._cancel_when_dropped.detach()

    def cancel(self) -> None:
        """Cancel from any thread; a thread that waits for the next chunk gets ``Cancelled``."""
        self._call.cancel()

    def close(self) -> None:
        """Cancel and end the iteration; harmless after the end."""
        self.cancel()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Client of one server; threads may share it. Keep it: each one holds a connection.

    Args:
        target: "host:port", or any gRPC name such as "dns:///service:50051".
        timeout: Seconds for one call unless the call says otherwise; None for no deadline.
        max_message_bytes: Largest request and largest answer.
        max_attempts: Most attempts at one call while the server is away or full; 1 turns retries off.
        tls: True for TLS with public authorities, or a ``Tls`` with files of one's own.
        token: Bearer token, for servers that ask for one; without TLS it can be read on the way.
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
        self._channel = self._connection.open()
        self._stub = seq2seq_pb2_grpc.Seq2SeqServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._closed = False

    def generate(
        self,
        texts: Sequence[str] | None = None,
        *,
        tokens: Sequence[Sequence[str]] | None = None,
        token_ids: Sequence[Sequence[int]] | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[GenerationOptions],
    ) -> list[Result]:
        """Generate for every input of one call; exactly one of ``texts``, ``tokens`` and ``token_ids``.

        Tokens and ids are content only: start, language and end tokens are added as for text. All inputs go in one
        message, which is answered or refused as a whole; an empty list is answered without a call.

        Args:
            texts: One string per input.
            tokens: One list of source pieces per input.
            token_ids: One list of source ids per input.
            model: Name of the model; needed where the server has several.
            timeout: Seconds; None for no deadline; by default the client's.
            **options: See ``GenerationOptions``.

        Returns:
            One result per input, in input order.
        """
        request = messages.generate_request(texts, tokens, token_ids, model, options)
        if not request.inputs:
            return []
        return messages.results_from(self._call(self._stub.Generate, request, timeout, metadata_of(options)))

    def stream(
        self,
        text: str | None = None,
        *,
        tokens: Sequence[str] | None = None,
        token_ids: Sequence[int] | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[GenerationOptions],
    ) -> ChunkStream:
        """Generate for one input and yield tokens as they become final; arguments as for ``generate``."""
        request = messages.stream_request(text, tokens, token_ids, model, options)
        return ChunkStream(self._start(self._stub.GenerateStream, request, timeout, metadata_of(options)))

    def score(
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
        """Log-probabilities of given targets behind given sources, computed in one pass and not generated.

        Sources and targets are given as texts, as tokens or as ids, each in one of these forms; content only, as for
        ``generate``. All pairs go in one message; empty lists are answered without a call.

        Args:
            sources: One string per pair.
            targets: One string per pair; an empty one scores the end token alone.
            source_tokens, target_tokens: In place of texts, one list of pieces per pair.
            source_token_ids, target_token_ids: In place of texts, one list of ids per pair.
            model: Name of the model; needed where the server has several.
            timeout: Seconds; None for no deadline; by default the client's.
            **options: See ``ScoreOptions``.

        Returns:
            One result per pair, in order.

        Raises:
            Unsupported: The model has no scorer; ``info`` tells.
        """
        request = score_messages.score_request(
            (sources, source_tokens, source_token_ids), (targets, target_tokens, target_token_ids), model, options
        )
        if not request.pairs:
            return []
        return score_messages.scores_from(self._call(self._stub.Score, request, timeout, metadata_of(options)))

    def translate_document(
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
        """Generate for every sentence of a text of any length, and put the answers together as the sentences were.

        Line breaks, blank lines and indentation stay. A sentence over the source limit is sent in parts; what has no
        letter and no digit is copied; passages tell of both.

        Args:
            text: The document. A sentence does not go on behind a line break.
            split: "sentences", or "lines" for texts that have one on each line already.
            language: Of the text, for its abbreviations; by default ``source_language``, and without it all known ones.
            model: Name of the model; needed where the server has several.
            timeout: Seconds for each of its calls; None for no deadline; by default the client's.
            on_progress: Called with how many characters of the text are done, and how many there are.
            **options: See ``GenerationOptions``; they hold for every sentence.
        """
        work = Translation(text, split, language or options.get("source_language"), on_progress)
        if work.empty:
            return work.run(self.generate)
        size = batch_size_of(self.info(timeout=timeout), model)
        return work.run(lambda texts: self.generate(texts, model=model, timeout=timeout, **options), batch_size=size)

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = False,
        source_language: str | None = None,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> list[TokenizedText]:
        """Ids and pieces of texts, as ``generate`` makes them; nothing is generated, and no length limit applies.

        Args:
            texts: May be empty strings; an empty list is answered without a call.
            add_special_tokens: Those around the text too; without, ``token_ids`` are what ``generate`` takes.
            source_language: Code, for models whose special tokens name the language.
            model: Name of the model; needed where the server has several.
            timeout: Seconds; None for no deadline; by default the client's.
        """
        request = messages.tokenize_request(texts, model, add_special_tokens, source_language)
        if not request.texts:
            return []
        return messages.tokenized_from(self._call(self._stub.Tokenize, request, timeout))

    def detokenize(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        model: str | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> list[str]:
        """Texts of ids of the target vocabulary, as ``generate`` makes them: special tokens are left out."""
        request = messages.detokenize_request(token_ids, model)
        if not request.token_ids:
            return []
        return list(self._call(self._stub.Detokenize, request, timeout).texts)

    def info(self, *, timeout: float | Unset | None = UNSET) -> ServerInfo:
        """The models of the server, with their limits and defaults."""
        response = self._call(self._stub.GetModelInfo, seq2seq_pb2.GetModelInfoRequest(), timeout)
        return messages.info_from(response)

    def health(self, service: str = "", *, timeout: float | Unset | None = UNSET) -> bool:
        """Whether the server says SERVING, of itself or of one service; False for a service it does not know."""
        try:
            response = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=service), timeout)
        except ModelNotFound:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(self, method: Any, request: Any, timeout: float | Unset | None, metadata: Metadata = ()) -> Any:
        try:
            return self._start(method, request, timeout, metadata)
        except grpc.RpcError as error:
            raise error_from(error) from error

    def _start(self, method: Any, request: Any, timeout: float | Unset | None, metadata: Metadata = ()) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        self._connection.check_size(request)
        beside = (*self._connection.metadata, *metadata)
        return method(request, timeout=self._connection.seconds(timeout), metadata=beside)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
