"""What callers send, and what this machine is, shows up in no status, no log line and no metric."""

import io
import logging
import re
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from arithmetic_engine import ArithmeticEngine
from malformed import request
from registered import call_of_any_kind
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.log_lines import ConsoleFormatter
from seqserve_server.service import Seq2SeqService
from serving import Served, ask, ids, serving

MARK = "Geheimnis"
SERVICE = pb.DESCRIPTOR.services_by_name["Seq2SeqService"]
KINDS = {f"/{SERVICE.full_name}/{method.name}": method.input_type for method in SERVICE.methods}
ROOT = re.escape(str(Path(__file__).resolve().parent.parent))
LEAKS = re.compile(rf"{MARK}|Traceback|{ROOT}|/home/|/tmp/|/usr/|/secret|site-packages|File \"|0x[0-9a-f]{{8}}|<class ")
PIECES = pb.Tokens(tokens=["c", MARK])
TELLING: list[Any] = [
    ask(f"{MARK} " * 40), ask(MARK * 10_000), ask(pb.Input(tokens=PIECES)), ask("c", stop=[MARK * 100]),
    ask("c", prefix=pb.Target(tokens=PIECES)), ask("c", required_phrases=[pb.Target(tokens=PIECES)]),
    ask("c", banned_phrases=[pb.Target(text=MARK * 10_000)]), ask(ids(999)), ask("c", beam_size=-1), ask(),
    pb.TokenizeRequest(texts=[MARK * 10_000]), pb.DetokenizeRequest(token_ids=[pb.TokenIds(ids=[999])]),
    pb.ScoreRequest(pairs=[pb.ScorePair(source=pb.Input(text=MARK), target=pb.Target(tokens=PIECES))]),
]


async def statuses(served: Served) -> list[str]:
    """All that comes back of requests that tell something, and of malformed ones: codes, messages and details."""
    sent: list[tuple[str, bytes]] = [
        (f"/{SERVICE.full_name}/{type(each).__name__.removesuffix('Request')}", each.SerializeToString())
        for each in TELLING
    ]
    sent += [request(seed, KINDS) for seed in range(300)]
    metadata = (("x-request-id", f"{MARK} /etc"), ("x-tenant", MARK), ("user-agent", MARK))
    found = []
    for method, payload in sent:
        call = call_of_any_kind(served.channel, method, payload, metadata=metadata)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            found.append(f"{error.code()} {error.details()} {error.trailing_metadata()!r}")
    return found


async def told(log: io.StringIO, **settings: Any) -> tuple[list[str], str, str]:
    """Statuses, log lines and metrics after all of it, and after a step that failed."""
    engine = ArithmeticEngine()
    engine.poison = 7
    handler = logging.StreamHandler(log)
    handler.setFormatter(ConsoleFormatter())
    logging.getLogger().addHandler(handler)
    try:
        async with serving(engine, **settings) as served:
            found = await statuses(served)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Generate(ask("e"))  # e is 7
            found.append(f"{caught.value.code()} {caught.value.details()}")
            url = f"http://127.0.0.1:{served.server.metrics_port}/metrics"
            with urllib.request.urlopen(url) as response:
                return found, log.getvalue(), response.read().decode()
    finally:
        logging.getLogger().removeHandler(handler)


async def test_nothing_is_told_that_should_not_be() -> None:
    found, log, metrics = await told(io.StringIO())
    assert len(found) > 200
    assert "INTERNAL" in found[-1]
    assert "failed" in log
    assert "grpc_server_handled_total" in metrics
    for text in (*found, log, metrics):
        assert LEAKS.search(text) is None, text


async def test_a_handler_that_tells_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def telling(self: Any, request: pb.TokenizeRequest, context: Any) -> None:
        logging.getLogger("x").error("cannot tokenise %s in %s", request.texts[0][:20], Path("/tmp/vocabulary"))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no such text: {request.texts[0][:20]}")

    monkeypatch.setattr(Seq2SeqService, "Tokenize", telling)
    found, log, _ = await told(io.StringIO())
    assert any(LEAKS.search(text) for text in found)
    assert LEAKS.search(log)


async def test_metrics_do_not_grow_with_what_callers_make_up() -> None:
    async def series(served: Served) -> int:
        url = f"http://127.0.0.1:{served.server.metrics_port}/metrics"
        with urllib.request.urlopen(url) as response:
            return sum(not line.startswith(b"#") for line in response)

    async with serving() as served:
        await statuses(served)
        before = await series(served)
        for number in range(300):
            await call_of_any_kind(served.channel, f"/made.up{number}/Method{number}", b"").code()
            await served.stub.Generate(ask("c", model=f"model{number}")).code()
        assert await series(served) == before
