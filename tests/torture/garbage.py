"""Rows 6 and 10: messages that are no such thing, and clients that read nothing."""

import asyncio
import contextlib
import multiprocessing
import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import grpc
from google.protobuf.message import DecodeError

import malformed
from arithmetic_engine import ArithmeticEngine
from pencil_server import pencil_server
from raw_http2 import PREFACE, call, connect, settings
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.errors import ServerError
from seqserve_server.messages import read_inputs
from serving import ENDLESS, PENCIL_TEXT, ask, ask_stream, ids, make_config, make_model, make_stub
from torture.memory import resident
from torture.prober import probing
from torture.progress import Progress

GENERATE = "/seqserve.v1.Seq2SeqService/Generate"
STREAM = "/seqserve.v1.Seq2SeqService/GenerateStream"
MANY, CHUNK = 100_000, 50_000
LEAK = "refused with something of ours"
HARMLESS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}


@cache
def seeds() -> list[bytes]:
    """Good requests, and readable ones full of extremes, from which bad ones are made."""
    rng = random.Random(4)
    kind: Any = pb.GenerateRequest.DESCRIPTOR
    extremes = (malformed.populated(rng, kind).SerializeToString() for _ in range(400))
    return [data for data in extremes if len(data) < 400][:60] + 15 * [each.SerializeToString() for each in (
        ask("c d", "e"), ask(ids(5, 6), beam_size=4, num_hypotheses=2, length_penalty=0.5),
        ask("a b c", max_new_tokens=5, temperature=0.7, top_k=3, top_p=0.9, seed=7, repetition_penalty=1.1),
        ask("x", model="pencil", return_logprobs=True, min_new_tokens=2, no_repeat_ngram_size=2, patience=1.0),
    )]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes other than they were, missing, doubled or made up."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
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
    """So many requests, parsed and read as the service does, without a wire; many of them in two processes."""
    ends: Counter[str] = Counter()
    if count < MANY:
        ends = read_all(count, 1)
    else:
        parts = [(min(CHUNK, count - first), first) for first in range(0, count, CHUNK)]
        progress, event_loop = Progress("parsed", count), asyncio.get_running_loop()
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            for found in asyncio.as_completed([event_loop.run_in_executor(pool, read_all, *part) for part in parts]):
                ends += await found
                progress.add(CHUNK)
    assert ends.total() == count
    assert ends[LEAK] == 0, "a refusal gives something of ours away"
    return f"{count}: {dict(ends)}, nothing else"


def read_all(count: int, seed: int) -> Counter[str]:
    """How so many requests end."""
    config = make_config()
    model, rng, good = make_model(config, ArithmeticEngine()), random.Random(seed), seeds()
    ends: Counter[str] = Counter()
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
            leaks = any(bad in str(error) for bad in (os.getcwd(), "Traceback", ".py"))
            ends[LEAK if leaks else "refused"] += 1
        else:
            ends["good"] += 1
    return ends


async def sent(count: int, plant: str = "") -> str:
    """So many requests of any bytes, over the wire; many of them to two servers. ``plant`` is a bug of theirs."""
    rng, good = random.Random(2), seeds()
    codes: Counter[str] = Counter()
    grown = taken = 0
    progress = Progress("sent", count)

    async def all_to_one(count: int) -> None:
        nonlocal grown, taken
        turn = asyncio.Semaphore(64)

        async def one(data: bytes) -> None:
            async with turn:
                codes[(await generate(data, timeout=30).code()).name] += 1

        with pencil_server(faults=0, plant=plant) as server:
            async with grpc.aio.insecure_channel(server.target) as channel, probing(server.target) as samples:
                generate = channel.unary_unary(GENERATE, request_serializer=bytes, response_deserializer=bytes)
                memory = 0
                for first in range(0, count, 1000):
                    size = min(1000, count - first)
                    await asyncio.gather(*(one(mutated(rng, rng.choice(good))) for _ in range(size)))
                    memory = memory or resident(server.pid)
                    progress.add(size)
                grown = max(grown, resident(server.pid) - memory)
                assert set(codes) <= HARMLESS, codes
                assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
            assert samples.wrong == 0
            taken += samples.taken

    servers = 1 if count < MANY else 2
    await asyncio.gather(*(all_to_one(count // servers) for _ in range(servers)))
    return (f"{count}: {dict(codes)}; memory after the first thousand {grown:+} KiB; {taken} health samples, 0 wrong")


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
                answer = await generate(ask("c d"), timeout=300)  # behind all of them, on a busy machine too
                assert answer.results[0].hypotheses[0].text == PENCIL_TEXT
                most = max(most, resident(server.pid) - before)
                await asyncio.sleep(0.5)
    assert samples.wrong == 0
    assert most / count <= 128, f"{most / count:.0f} KiB for each"
    return f"{count} never read: {most / count:.1f} KiB each at most; {samples.taken} health samples"
