"""Row 7: connections of frames that make no sense, many at a time."""

import asyncio
import random
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import grpc

import malformed
from pencil_server import Process, pencil_server
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
from serving import PENCIL_TEXT, ask, make_stub
from torture.garbage import GENERATE, mutated, seeds
from torture.memory import descriptors, resident
from torture.prober import probing
from torture.progress import Progress

WINDOW = 32  # connections that are open at a time
BLOCK, REPEATS = 10_000, 4  # of a block's connections, every fourth is new: making one takes longer than sending it
PATIENCE_MS = 5_000
RESET_AT_CLOSE = b"\x01\0\0\0\0\0\0\0"  # so that no port is left waiting
SETTLE_SECONDS = 30.0
MOST_LEFT = 100  # descriptors, when all are gone


async def connections(count: int, serve: Callable[[], AbstractContextManager[Process]] = pencil_server) -> str:
    """So many connections of frames that make no sense."""
    rng, done, answered, progress = random.Random(3), 0, 0, Progress("connections", count)
    with serve() as server:
        async with probing(server.target) as samples:
            memory = 0
            while done < count:
                size = min(1000 if not done else BLOCK, count - done)
                told = [_babble(rng) for _ in range(max(1, size // REPEATS))]
                answered += await asyncio.to_thread(_flood, server.target, _dealt(told, size))
                done += size
                progress.add(size)
                memory = memory or resident(server.pid)
            left = await _left(server.pid)
            grown = resident(server.pid) - memory
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    assert samples.wrong == 0
    assert left < MOST_LEFT, f"{left} descriptors left"
    assert answered > 0.9 * count, f"only {answered} of {count} were answered: what was sent may have met nobody"
    return (f"{count}, {answered} answered; memory after the first thousand {grown:+} KiB, {left} descriptors; "
            f"{samples.taken} health samples, {samples.wrong} wrong")


async def _left(pid: int) -> int:
    """Descriptors, when those of connections that were closed have had their time to go."""
    for _ in range(round(SETTLE_SECONDS / 0.1)):
        if descriptors(pid) < MOST_LEFT:
            break
        await asyncio.sleep(0.1)
    return descriptors(pid)


def _dealt(told: Sequence[bytes], count: int) -> Iterator[bytes]:
    return (told[number % len(told)] for number in range(count))


def _flood(target: str, told: Iterator[bytes]) -> int:
    """Open a connection for each, say it, and close the eldest when it was answered; returns how many were."""
    window: deque[socket.socket] = deque()
    answered = 0
    for data in told:
        connection = connect(target)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        try:
            connection.sendall(data)
        except OSError:  # the server hung up, as it may
            answered += 1
            connection.close()
            continue
        window.append(connection)
        if len(window) == WINDOW:
            answered += _closed(window.popleft())
    return answered + sum(map(_closed, window))


def _closed(connection: socket.socket) -> bool:
    """Whether anything came, be it an end; the server says its settings to whoever connects."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    with connection:
        return bool(poll.poll(PATIENCE_MS))


def _babble(rng: random.Random) -> bytes:
    """What one of them says: any frames, or one of the kinds that have a name."""
    if rng.random() < 0.5:
        return malformed.connection(rng.randrange(1 << 30))
    data = b"" if rng.random() < 0.1 else PREFACE + (settings() if rng.random() < 0.7 else b"")
    for _ in range(rng.randint(1, 6)):
        kind = rng.choice((DATA, HEADERS, SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, CONTINUATION, rng.randrange(256)))
        body = rng.randbytes(rng.randrange(40))
        whole = frame(kind, rng.randrange(256), rng.choice((0, 1, 2, 3, rng.randrange(1 << 31))), body)
        data += whole if rng.random() < 0.8 else whole[: rng.randrange(len(whole))]
    if rng.random() < 0.3:
        data += call(GENERATE, mutated(rng, seeds()[-1]), stream=2 * rng.randrange(5) + 1)
    return data
