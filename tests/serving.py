"""The whole server around the arithmetic engine, on free ports of this machine; an async context manager.

Its vocabulary is ``<unk> </s> <s> a b c ... z``, so the text "c d" is the pencil example: 5 and 6, closed by 1.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from arithmetic_engine import END, START, UNKNOWN, VOCABULARY, ArithmeticEngine
from hand_loop import make_limits
from seqserve.bundle import ModelDescription, StateTensor
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve.v1 import seq2seq_pb2_grpc
from seqserve_server.config import ServerConfig
from seqserve_server.served_model import ServedModel
from seqserve_server.server import RunningServer, running_server
from seqserve_server.tokenizer import Tokenizer
from seqserve_server.tokenizer.hub import HubTokenizer

WORDS = ["<unk>", "</s>", "<s>", *"abcdefghijklmnopqrstuvwxyz"]
PENCIL_IDS = [14, 28, 27, 25, 21, 13, 26, 23, 17, 5, 10, 20, 11, 22, 15]  # the answer to "c d"
PENCIL_TEXT = "l z y w s k x u o c h r i t m"
ENDLESS = [26]  # with start and end token it sums to 29: repeats 0, "<unk>", until its limit


def describe(**changes: Any) -> ModelDescription:
    """What ``model.json`` of the arithmetic engine would say."""
    values: dict[str, Any] = {
        "name": "pencil", "family": "native", "precision": "fp32", "source_vocab_size": VOCABULARY,
        "target_vocab_size": VOCABULARY, "max_source_length": 32, "max_target_length": 64, "source_prefix": (),
        "source_suffix": (END,), "decoder_prompt": (START,), "eos_id": END, "pad_id": UNKNOWN, "unk_id": UNKNOWN,
        "states": (StateTensor("seen", 1, ("length", 2), "float32", "row", "target", "append"),),
        "default_max_new_tokens": 64,
    }
    return ModelDescription(**{**values, **changes})


def make_tokenizer() -> HubTokenizer:
    """Words at spaces; the first three entries are special."""
    inner = LibraryTokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:3]])
    return HubTokenizer(inner)


@dataclass(slots=True)
class Served:
    """A running server and ways to talk to it."""

    server: RunningServer
    engine: ArithmeticEngine
    channel: grpc.aio.Channel
    stub: Any
    health: Any

    @property
    def inside(self) -> int:
        """Requests at the gate that have not ended."""
        return self.server.open_requests

    async def until_stepping(self) -> None:
        """Wait until a held step has begun."""
        await asyncio.to_thread(self.engine.stepping.wait, 30)

    async def until_abandoned(self, count: int) -> None:
        """Wait until the server knows that callers of so many requests are gone; the engine is held meanwhile."""
        loop = self.server.models.servings[0].loop
        await self.until(lambda: sum(isinstance(message, int) for message in loop._inbox) == count)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; a test that never gets there ends by the suite's own time limit."""
        while not holds():
            await asyncio.sleep(0.002)


def make_config(**changes: Any) -> ServerConfig:
    """Free ports, and a budget the arithmetic engine fits."""
    values: dict[str, Any] = {
        "bundles": (Path("pencil"),), "port": 0, "metrics_port": 0, "cache_bytes": 1 << 20, "drain_seconds": 20,
    }
    return ServerConfig(**{**values, **changes})


def make_model(
    config: ServerConfig, engine: ArithmeticEngine, *, tokenizer: bool | Tokenizer = True, **description: Any
) -> ServedModel:
    """What loading a bundle would give. ``tokenizer`` is one, or whether there is the usual one."""
    limits = make_limits(config.max_rows, config.encode_tokens, config.cache_bytes)
    if isinstance(tokenizer, bool):
        chosen: Tokenizer | None = make_tokenizer() if tokenizer else None
    else:
        chosen = tokenizer
    return ServedModel(describe(**description), "0123456789ab", chosen, engine, limits)


def make_stub(channel: grpc.aio.Channel) -> Any:
    """The service on a channel."""
    return seq2seq_pb2_grpc.Seq2SeqServiceStub(channel)  # type: ignore[no-untyped-call]


def make_health(channel: grpc.aio.Channel) -> Any:
    """The health service on a channel."""
    return health_pb2_grpc.HealthStub(channel)


@contextlib.asynccontextmanager
async def serving(
    engine: ArithmeticEngine | None = None, *, tokenizer: bool | Tokenizer = True,
    client_options: list[tuple[str, Any]] | None = None, description: dict[str, Any] | None = None, **config: Any,
) -> AsyncIterator[Served]:
    """Start, yield, stop. Whatever steps a test still holds are let go at the end."""
    settings = make_config(**config)
    engine = engine or ArithmeticEngine(settings.cache_bytes)

    def load(given: ServerConfig) -> ServedModel:
        return make_model(given, engine, tokenizer=tokenizer, **(description or {}))

    async with running_server(settings, load) as server:
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=client_options) as channel:
                yield Served(server, engine, channel, make_stub(channel), make_health(channel))
        finally:
            engine.allow()


def ids(*content: int) -> pb.Input:
    """An input of token ids."""
    return pb.Input(token_ids=pb.TokenIds(ids=content))


def ask(*inputs: str | pb.Input, model: str = "", **options: Any) -> pb.GenerateRequest:
    """A unary request; texts may be given as they are."""
    messages = [pb.Input(text=each) if isinstance(each, str) else each for each in inputs]
    return pb.GenerateRequest(model=model, inputs=messages, options=pb.GenerationOptions(**options))


def ask_stream(source: str | pb.Input, **options: Any) -> pb.GenerateStreamRequest:
    """A streaming request."""
    message = pb.Input(text=source) if isinstance(source, str) else source
    return pb.GenerateStreamRequest(input=message, options=pb.GenerationOptions(**options))
