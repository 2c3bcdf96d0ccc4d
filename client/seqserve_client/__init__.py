"""Python client of the Seqserve server.

    with Client("127.0.0.1:50051") as client:
        print(client.generate(["A man is riding a horse."])[0].text)
        for chunk in client.stream("Two dogs play."):
            print(chunk.text, end="", flush=True)

``AsyncClient`` has the same methods for asyncio. Every failed call raises a ``SeqserveError``; the tree is drawn in
``seqserve_client.errors``.
"""

from seqserve_client.async_client import AsyncChunkStream, AsyncClient
from seqserve_client.channel import UNSET
from seqserve_client.client import ChunkStream, Client
from seqserve_client.documents import Document, Passage
from seqserve_client.errors import (
    Cancelled,
    DeadlineExceeded,
    InputTooLong,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    PermissionDenied,
    Quarantined,
    QueueFull,
    SeqserveError,
    ServerError,
    TooManyInputs,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from seqserve_client.options import GenerationOptions, ScoreOptions, Stopping
from seqserve_client.results import (
    Chunk,
    Hypothesis,
    ModelInfo,
    ModelLimits,
    Result,
    ScoreResult,
    ServerInfo,
    Timing,
    TokenizedText,
)
from seqserve_client.security import Tls

__all__ = [
    "UNSET",
    "AsyncChunkStream",
    "AsyncClient",
    "Cancelled",
    "Chunk",
    "ChunkStream",
    "Client",
    "DeadlineExceeded",
    "Document",
    "GenerationOptions",
    "Hypothesis",
    "InputTooLong",
    "InvalidInput",
    "MessageTooLarge",
    "ModelInfo",
    "ModelLimits",
    "ModelNotFound",
    "Passage",
    "PermissionDenied",
    "Quarantined",
    "QueueFull",
    "Result",
    "ScoreOptions",
    "ScoreResult",
    "SeqserveError",
    "ServerError",
    "ServerInfo",
    "Stopping",
    "Timing",
    "Tls",
    "TokenizedText",
    "TooManyInputs",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
]
