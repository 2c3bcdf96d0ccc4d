"""Rows 6, 7 and 10: messages and connections that are no such thing, and clients that read nothing."""

import asyncio
import contextlib
import random
import socket
from collections import Counter
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from arithmetic_engine import ArithmeticEngine
from pencil_server import pencil_server
from raw_http2 import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call,
    connect,
    frame,
    settings,
)
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.errors import ServerError
from seqserve_server.messages import read_inputs
from serving import ENDLESS, PENCIL_TEXT, ask, ask_stream, ids, make_config, make_model, make_stub
from torture.prober import probing

GENERATE = "/seqserve.v1.Seq2SeqService/Generate"
STREAM = "/seqserve.v1.Seq2SeqService/GenerateStream"
HARMLESS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}


def seeds() -> list[bytes]:
    """Good requests, from which bad ones are made."""
    return [each.SerializeToString() for each in (
        ask("c d", "e"), ask(ids(5, 6), beam_size=4, num_hypotheses=2, length_penalty=0.5),
        ask("a b c", max_new_tokens=5, temperature=0.7, top_k=3, top_p=0.9, seed=7, repetition_penalty=1.1),
        ask("x", model="pencil", return_logprobs=True, min_new_tokens=2, no_repeat_ngram_size=2, patience=1.0),
    )]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes other than they were, missing, doubled or made up."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, kind = rng.randrange(len(found) + 1), rng.randrange(5)
        if kind == 0 and at < len(found):
            found[at] = rng.randrange(256)
        elif kind == 1:
            del found[at : at + rng.randint(1, 4)]
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3:
            found += found[at : at + 20]
        elif at < len(found):
            found[at] ^= 1 << rng.randrange(8)
    return bytes(found)


async def parsed(count: int) -> str:
    """So many requests, parsed and read as the service does, without a wire."""
    config = make_config()
    model, rng, good = make_model(config, ArithmeticEngine()), random.Random(1), seeds()
    ends: Counter[str] = Counter()
    leaks = 0
    for _ in range(count):
        try:
            request = pb.GenerateRequest.FromString(mutated(rng, rng.choice(good)))
        except DecodeError:
            ends["no message"] += 1
            continue
        try:
            read_inputs(
                request.inputs, request.options, model, field="inputs", max_text_bytes=config.max_text_bytes,
                deadline=None,
            )
        except ServerError as error:
            ends["refused"] += 1
            leaks += any(bad in str(error) for bad in ("/work", "Traceback", ".py"))
        else:
            ends["good"] += 1
    assert leaks == 0, "a refusal gives something of ours away"
    return f"{count}: {dict(ends)}, nothing else"


async def sent(count: int) -> str:
    """So many requests of any bytes, over the wire."""
    rng, good = random.Random(2), seeds()
    codes: Counter[str] = Counter()
    turn = asyncio.Semaphore(64)
    with pencil_server() as server:
        async with grpc.aio.insecure_channel(server.target) as channel, probing(server.target) as samples:
            generate = channel.unary_unary(GENERATE, request_serializer=bytes, response_deserializer=bytes)

            async def one(data: bytes) -> None:
                async with turn:
                    codes[(await generate(data, timeout=30).code()).name] += 1

            memory = 0
            for first in range(0, count, 1000):
                await asyncio.gather(*(one(mutated(rng, rng.choice(good))) for _ in range(min(1000, count - first))))
                memory = memory or resident(server.pid)
            grown = resident(server.pid) - memory
            assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    assert set(codes) <= HARMLESS, codes
    assert samples.wrong == 0
    return f"{count}: {dict(codes)}; memory after the first thousand {grown:+} KiB; {samples.taken} health samples"


async def connections(count: int) -> str:
    """So many connections of frames that make no sense."""
    rng = random.Random(3)
    with pencil_server() as server:
        async with probing(server.target) as samples:
            memory = 0
            for number in range(count):
                await asyncio.to_thread(_babble, server.target, rng)
                if number == min(1000, count // 2):
                    memory = resident(server.pid)
            await asyncio.sleep(1.0)
            grown, left = resident(server.pid) - memory, descriptors(server.pid)
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    assert samples.wrong == 0
    assert left < 100, f"{left} descriptors left"
    return f"{count}; memory after the first thousand {grown:+} KiB, {left} descriptors; {samples.taken} health samples"


def _babble(target: str, rng: random.Random) -> None:
    data = b"" if rng.random() < 0.1 else PREFACE + (settings() if rng.random() < 0.7 else b"")
    for _ in range(rng.randint(1, 6)):
        kind = rng.choice((DATA, HEADERS, SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, CONTINUATION, rng.randrange(256)))
        body = rng.randbytes(rng.randrange(40))
        whole = frame(kind, rng.randrange(256), rng.choice((0, 1, 2, 3, rng.randrange(1 << 31))), body)
        data += whole if rng.random() < 0.8 else whole[: rng.randrange(len(whole))]
    if rng.random() < 0.3:
        data += call(GENERATE, mutated(rng, seeds()[0]), stream=2 * rng.randrange(5) + 1)
    with contextlib.suppress(OSError), connect(target) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # no port is left waiting
        connection.sendall(data)


async def readers(count: int, tokens: int = 512) -> str:
    """So many streams whose clients never read, and what each of them costs."""
    request = ask_stream(ids(*ENDLESS), max_new_tokens=tokens).SerializeToString()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            pencil_server(rows=64, longest=1024, cache_bytes=1 << 28, write_timeout_seconds=3, hang_seconds=0)
        )
        async with grpc.aio.insecure_channel(server.target) as channel, probing(server.target) as samples:
            generate = make_stub(channel).Generate
            await asyncio.gather(*(generate(ask(ids(*ENDLESS), max_new_tokens=tokens)) for _ in range(64)))
            before = resident(server.pid)
            for _ in range(count):
                connection = stack.enter_context(connect(server.target))
                connection.sendall(PREFACE + settings(INITIAL_WINDOW_SIZE=0) + call(STREAM, request))
            most = 0
            for _ in range(10):
                # Others are answered meanwhile: neither rows nor the loop wait for who does not read.
                answer = await generate(ask("c d"), timeout=60)
                assert answer.results[0].hypotheses[0].text == PENCIL_TEXT
                most = max(most, resident(server.pid) - before)
                await asyncio.sleep(0.5)
    assert samples.wrong == 0
    assert most / count <= 128, f"{most / count:.0f} KiB for each"
    return f"{count} never read: {most / count:.1f} KiB each at most; {samples.taken} health samples"


def resident(pid: int) -> int:
    """KiB of a process in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def descriptors(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
