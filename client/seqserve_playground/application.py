"""The page's requests, answered by a client of the server."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from seqserve_client import AsyncChunkStream, AsyncClient, InvalidInput, SeqserveError
from seqserve_client.options import ScoreOptions
from seqserve_playground import replies
from seqserve_playground.guard import MAX_BODY_BYTES, Guard
from seqserve_playground.live_metrics import LiveMetrics
from seqserve_playground.questions import Question, question_from

STATIC = Path(__file__).parent / "static"
STATUS_TIMEOUT = 3.0  # seconds; a page that waits longer shows nothing
SCORE_OPTIONS = tuple(ScoreOptions.__annotations__)


def application(handlers: "Handlers") -> Starlette:
    """The ASGI application."""
    routes = [
        Route("/", _index),
        Route("/api/status", handlers.status),
        Route("/api/metrics", handlers.metrics),
        Route("/api/stream", handlers.stream, methods=["POST"]),
        Route("/api/generate", handlers.generate, methods=["POST"]),
        Route("/api/score", handlers.score, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(Guard)], exception_handlers={SeqserveError: _failed}
    )


async def _index(_request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, SeqserveError)
    return JSONResponse({"error": replies.error_record(error)}, replies.status_of(error))


class Handlers:
    """One method for each address.

    Args:
        client: Stays the caller's, who closes it.
        target: Its address, for the page to show.
        metrics: Where the server's metrics are.
    """

    def __init__(self, client: AsyncClient, target: str, metrics: LiveMetrics) -> None:
        self._client, self._target, self._metrics = client, target, metrics
        self._open: set[AsyncChunkStream] = set()

    def end(self) -> None:
        """Cancel the streams that are open, whose readers are told so."""
        for chunks in self._open:
            chunks.cancel()

    async def status(self, _request: Request) -> Response:
        """Whether the server answers, and what it serves. Always 200: a server that is away is an answer, too."""
        record: dict[str, Any] = {"target": self._target, "max_body_bytes": MAX_BODY_BYTES}
        try:
            info = await self._client.info(timeout=STATUS_TIMEOUT)
        except SeqserveError as error:
            return JSONResponse({**record, "serving": False, "error": replies.error_record(error)})
        return JSONResponse({**record, "serving": True, **asdict(info)})

    async def metrics(self, _request: Request) -> Response:
        """The server's metrics."""
        return JSONResponse(await self._metrics.record())

    async def stream(self, request: Request) -> Response:
        """An answer as it comes: JSON lines of type chunk, result and error. Who leaves cancels the call."""
        asked = question_from(await request.body())
        try:
            chunks = self._client.stream(
                asked.text, token_ids=asked.token_ids, model=asked.model, **asked.options
            )
        except TypeError as error:
            raise _unknown(error) from None
        return StreamingResponse(self._lines(chunks), media_type="application/x-ndjson")

    async def generate(self, request: Request) -> Response:
        """An answer in one piece."""
        asked = question_from(await request.body())
        try:
            call = self._client.generate(**_sources(asked), model=asked.model, **asked.options)
            (result,) = await call
        except TypeError as error:
            raise _unknown(error) from None
        return JSONResponse(replies.result_record(result))

    async def score(self, request: Request) -> Response:
        """What the model thinks of a target, with its alignment; of the options, those that scoring has."""
        asked = question_from(await request.body(), with_target=True)
        given: Any = {name: value for name, value in asked.options.items() if name in SCORE_OPTIONS}
        sources = _sources(asked)
        (result,) = await self._client.score(
            sources.get("texts"), source_token_ids=sources.get("token_ids"),
            target_token_ids=[asked.target_ids or []], model=asked.model, **given,
        )
        return JSONResponse(asdict(result))

    async def _lines(self, chunks: AsyncChunkStream) -> AsyncIterator[bytes]:
        self._open.add(chunks)
        async with aclosing(chunks):
            try:
                # Told at once, so that a page can tell a slow answer from a request that did not arrive.
                yield replies.line({"type": "sent"})
                async for chunk in chunks:
                    for record in replies.chunk_records(chunk):
                        yield replies.line(record)
            except SeqserveError as error:
                yield replies.line({"type": "error", "error": replies.error_record(error)})
            finally:
                self._open.discard(chunks)


def _sources(asked: Question) -> dict[str, Any]:
    return {"texts": [asked.text]} if asked.text is not None else {"token_ids": [asked.token_ids]}


def _unknown(error: TypeError) -> InvalidInput:
    """For the client, an unknown option is a mistake in the program; here the program is the page's."""
    return InvalidInput(str(error), field="options")
