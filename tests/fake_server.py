"""A server without a model, for tests of the client: the answer to a text is its words in capitals.

Blocking servicer methods on a thread pool, because only one event loop of a process should touch grpc.aio, and the
asyncio client's tests need that one.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from seqserve.v1 import seq2seq_pb2, seq2seq_pb2_grpc

MAX_INPUTS = 8
SOURCE_VOCAB_SIZE = 100
TIMING = seq2seq_pb2.Timing(
    queue_seconds=0.25, encode_seconds=0.5, decode_seconds=1.0, total_seconds=1.75, first_token_seconds=0.875
)


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    reason: str,
    *,
    metadata: dict[str, str] | None = None,
    field: str | None = None,
    retry_after: Duration | None = None,
    request_id: str | None = None,
) -> None:
    """End the call as the real server does: google.rpc details around an ErrorInfo."""
    parts: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="seqserve", metadata=metadata or {})]
    if field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        parts.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_after is not None:
        parts.append(error_details_pb2.RetryInfo(retry_delay=retry_after))
    if request_id is not None:
        parts.append(error_details_pb2.RequestInfo(request_id=request_id))
    details = []
    for part in parts:
        packed = AnyMessage()
        packed.Pack(part)
        details.append(packed)
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    context.abort_with_status(rpc_status.to_status(status))


def answer(source: seq2seq_pb2.Input, options: seq2seq_pb2.GenerationOptions) -> seq2seq_pb2.GenerationResult:
    """Words in capitals; ids are their lengths (or the source ids plus one); score is minus the number of tokens.

    Each further hypothesis has one word fewer and scores one more, so that whoever sorts them is seen.
    """
    kind = source.WhichOneof("content")
    words = list(source.tokens.tokens) if kind == "tokens" else source.text.split()
    ids = [each + 1 for each in source.token_ids.ids] if kind == "token_ids" else [len(word) for word in words]
    limit = options.max_new_tokens if options.HasField("max_new_tokens") else len(ids) + 1
    pieces = [word.upper() for word in words][:limit]
    lengths = range(len(ids[:limit]), -1, -1)[: max(1, options.num_hypotheses)]  # an empty one is the last
    aligned, columns = options.return_alignment, [*(words or map(str, source.token_ids.ids)), "</s>"]
    return seq2seq_pb2.GenerationResult(
        hypotheses=[
            seq2seq_pb2.Hypothesis(
                text=" ".join(pieces[:length]), tokens=pieces[:length], token_ids=ids[:length],
                score=float(place - len(ids)), alignment=attention(length, len(columns)) if aligned else None,
            )
            for place, length in enumerate(lengths)
        ],
        finish_reason=seq2seq_pb2.FINISH_REASON_LENGTH if limit <= len(ids) else seq2seq_pb2.FINISH_REASON_EOS,
        input_token_count=len(ids) + 1,
        output_token_count=min(limit, len(ids) + 1),
        timing=TIMING,
        source_tokens=columns if aligned else [],
    )


def attention(targets: int, sources: int) -> seq2seq_pb2.Alignment:
    """Each token attends to one source token, one after the other."""
    rows = [[float(place == row % sources) for place in range(sources)] for row in range(targets)]
    return seq2seq_pb2.Alignment(rows=[seq2seq_pb2.AlignmentRow(weights=row) for row in rows])


def score(pair: seq2seq_pb2.ScorePair, options: seq2seq_pb2.ScoreOptions) -> seq2seq_pb2.ScoreResult:
    """A word costs a quarter for every letter, an id for every one, the end a half; each attends to one source word."""
    kind = pair.target.WhichOneof("content")
    words = list(pair.target.tokens.tokens) if kind == "tokens" else pair.target.text.split()
    ids = list(pair.target.token_ids.ids) if kind == "token_ids" else [len(word) for word in words]
    source = [*(pair.source.tokens.tokens or pair.source.text.split() or map(str, pair.source.token_ids.ids)), "</s>"]
    log_probs = [*(-each / 4 for each in ids), -0.5]
    penalty = options.length_penalty if options.HasField("length_penalty") else 1.0
    return seq2seq_pb2.ScoreResult(
        score=sum(log_probs) / len(log_probs) ** penalty,
        token_log_probs=log_probs, token_ids=ids, tokens=words, input_token_count=len(source),
        alignment=attention(len(ids), len(source)) if options.return_alignment else None,
        source_tokens=source if options.return_alignment else [],
    )


def check_source(source: seq2seq_pb2.Input, field: str, context: grpc.ServicerContext) -> None:
    """Refuse blank texts, and those that begin with "long"."""
    code = grpc.StatusCode.INVALID_ARGUMENT
    if source.WhichOneof("content") == "text" and not source.text.strip():
        refuse(context, code, f"{field}: empty", "INVALID_FIELD", field=field)
    if source.text.startswith("long"):
        message = f"{field}: 900 tokens are over the limit of 512"
        refuse(context, code, message, "INPUT_TOO_LONG", field=field, metadata={"limit": "512"})


class FakeServicer(seq2seq_pb2_grpc.Seq2SeqServiceServicer):
    """Answers at once unless told otherwise.

    Attributes:
        calls: Requests in the order of arrival, retries among them.
        before: Called first in every generation, with the request and the context; may sleep, or end the call.
        between_chunks: Called after each chunk of a stream.
        version: Of its model.
        ended: Released once for every call whose end the server has seen.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.before: Callable[[Any, grpc.ServicerContext], object] = lambda request, context: None
        self.between_chunks: Callable[[], object] = lambda: None
        self.version = "0123456789ab"
        self.ended = threading.Semaphore(0)

    def _begin(self, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append(request)
        context.add_callback(self.ended.release)
        self.before(request, context)

    def Generate(
        self, request: seq2seq_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> seq2seq_pb2.GenerateResponse:
        self._begin(request, context)
        if request.model not in ("", "capitals"):
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no model {request.model!r}", "MODEL_NOT_FOUND")
        if len(request.inputs) > MAX_INPUTS:
            message = f"inputs: {len(request.inputs)} are over the limit of {MAX_INPUTS}"
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", field="inputs")
        for index, source in enumerate(request.inputs):
            check_source(source, f"inputs[{index}]", context)
        return seq2seq_pb2.GenerateResponse(results=[answer(source, request.options) for source in request.inputs])

    def GenerateStream(
        self, request: seq2seq_pb2.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[seq2seq_pb2.GenerateStreamResponse]:
        self._begin(request, context)
        check_source(request.input, "input", context)
        result = answer(request.input, request.options)
        best = result.hypotheses[0]
        words = [*best.tokens, *[""] * (len(best.token_ids) - len(best.tokens))]
        for position, (word, token_id) in enumerate(zip(words, best.token_ids, strict=True)):
            text = f" {word}" if position and word else word
            yield seq2seq_pb2.GenerateStreamResponse(text=text, token_ids=[token_id])
            self.between_chunks()
        yield seq2seq_pb2.GenerateStreamResponse(result=result)

    def Score(
        self, request: seq2seq_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> seq2seq_pb2.ScoreResponse:
        """See ``score``."""
        self._begin(request, context)
        if len(request.pairs) > MAX_INPUTS:
            message = f"pairs: {len(request.pairs)} are over the limit of {MAX_INPUTS}"
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", field="pairs")
        for index, pair in enumerate(request.pairs):
            check_source(pair.source, f"pairs[{index}].source", context)
        return seq2seq_pb2.ScoreResponse(results=[score(pair, request.options) for pair in request.pairs])

    def Tokenize(
        self, request: seq2seq_pb2.TokenizeRequest, context: grpc.ServicerContext
    ) -> seq2seq_pb2.TokenizeResponse:
        """Ids are the lengths of words; 1 is the end token."""
        self._begin(request, context)
        results = []
        for index, text in enumerate(request.texts):
            check_source(seq2seq_pb2.Input(text=text or "."), f"texts[{index}]", context)
            tokens = [*text.split(), *["</s>"] * request.add_special_tokens]
            ids = [1 if token == "</s>" else len(token) for token in tokens]
            results.append(seq2seq_pb2.TokenizedText(token_ids=ids, tokens=tokens))
        return seq2seq_pb2.TokenizeResponse(results=results)

    def Detokenize(
        self, request: seq2seq_pb2.DetokenizeRequest, context: grpc.ServicerContext
    ) -> seq2seq_pb2.DetokenizeResponse:
        """The text of an id is as many letters."""
        self._begin(request, context)
        texts = [" ".join("x" * token_id for token_id in sequence.ids) for sequence in request.token_ids]
        return seq2seq_pb2.DetokenizeResponse(texts=texts)

    def GetModelInfo(
        self, request: seq2seq_pb2.GetModelInfoRequest, context: grpc.ServicerContext
    ) -> seq2seq_pb2.GetModelInfoResponse:
        model = seq2seq_pb2.ModelInfo(
            name="capitals",
            version=self.version,
            family="fake",
            precision="fp32",
            has_tokenizer=True,
            has_scorer=True,
            alignment_source="layer 1 of 1",
            limits=seq2seq_pb2.ModelLimits(
                max_source_tokens=512,
                max_new_tokens=256,
                max_inputs=MAX_INPUTS,
                max_waiting_requests=2048,
                source_vocab_size=SOURCE_VOCAB_SIZE,
                target_vocab_size=100,
                max_beam_size=8,
            ),
            defaults=seq2seq_pb2.GenerationOptions(
                max_new_tokens=256, min_new_tokens=0, beam_size=2, num_hypotheses=1, length_penalty=0.2, patience=1.5,
                stopping=seq2seq_pb2.STOPPING_PATIENCE,
            ),
        )
        return seq2seq_pb2.GetModelInfoResponse(models=[model], server_version="1.2.3")


class FakeHealth(health_pb2_grpc.HealthServicer):
    """Says what it is told to, of the whole server; knows no other service. ``before`` is called first."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None
        self.status: Any = health_pb2.HealthCheckResponse.SERVING

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        self.before()
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self.status)


class FakeServer:
    """The servicer behind a real port; a context manager. ``target`` is "127.0.0.1:PORT"."""

    def __init__(self, *, options: Sequence[tuple[str, Any]] = (), threads: int = 16, port: int = 0) -> None:
        self.servicer = FakeServicer()
        self.health = FakeHealth()
        self._pool = ThreadPoolExecutor(threads)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0), *options])
        seq2seq_pb2_grpc.add_Seq2SeqServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.servicer, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown(wait=True)


def sleep(seconds: float) -> Callable[[Any, grpc.ServicerContext], None]:
    """For ``before``: answer after a known time."""
    return lambda request, context: time.sleep(seconds)


def aborting(code: grpc.StatusCode, text: str = "no") -> Callable[[Any, grpc.ServicerContext], None]:
    """A bare status, as gRPC itself or a proxy sends it."""
    return lambda request, context: context.abort(code, text)
