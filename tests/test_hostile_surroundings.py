"""Messages that would inflate, a log that cannot be written, a clock that jumps: the server goes on."""

import asyncio
import contextlib
import gzip
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import raw_http2
from malformed import call_headers
from pencil_server import BAD_STEP, pencil_server
from raw_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE
from serving import ENDLESS, PENCIL_TEXT, ask, ids, make_stub
from torture.garbage import GENERATE
from torture.memory import resident

BOMB_BYTES = 32 << 20
FRAME_BYTES = 1 << 14
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    static volatile long *seconds;
    if (!seconds) {
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        seconds = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    }
    return *seconds;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += offset();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    int failed = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *seconds) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (seconds) *seconds = found.tv_sec;
    return found.tv_sec;
}
"""


def bomb(encoding: str) -> bytes:
    """A call whose message of ``BOMB_BYTES`` zeros is a thousandth of that in gzip or deflate."""
    zeros = bytes(BOMB_BYTES)
    data = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    prefixed = b"\x01" + len(data).to_bytes(4, "big") + data
    parts = [prefixed[start : start + FRAME_BYTES] for start in range(0, len(prefixed), FRAME_BYTES)]
    head = raw_http2.frame(HEADERS, END_HEADERS, 1, call_headers(GENERATE, [("grpc-encoding", encoding)]))
    flags = [0] * (len(parts) - 1) + [END_STREAM]
    return PREFACE + raw_http2.settings() + head + b"".join(
        raw_http2.frame(DATA, flag, 1, part) for flag, part in zip(flags, parts, strict=True)
    )


def answer_to(target: str, data: bytes) -> bytes:
    """Headers and trailers of the answer, as they came; grpc writes texts in them as they are."""
    with raw_http2.connect(target) as connection:
        connection.sendall(data)
        found = b""
        for kind, flags, _, payload in raw_http2.frames(connection):
            found += payload if kind == HEADERS else b""
            if kind == HEADERS and flags & END_STREAM:
                break
    return found


async def test_a_compressed_message_is_refused_before_it_is_inflated() -> None:
    with pencil_server() as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
            before = resident(server.pid, "VmHWM")
            for encoding in ("gzip", "deflate"):
                found = await asyncio.to_thread(answer_to, server.target, bomb(encoding))
                assert f"Compression algorithm '{encoding}' is disabled".encode() in found, found
            assert resident(server.pid, "VmHWM") - before < BOMB_BYTES >> 12  # KiB; a quarter of it
            assert (await make_stub(channel).Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT


async def test_a_log_that_cannot_be_written_costs_nobody_an_answer() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pencil_server(log_level="info", stderr=full) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = make_stub(channel)
            for _ in range(3):
                code = await stub.Generate(ask(ids(BAD_STEP))).code()  # which the server logs
                assert code == grpc.StatusCode.INTERNAL
                assert (await stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 60) == 0


@contextlib.contextmanager
def offset_clock(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is started inside believes that it is later or earlier by what the file says; monotonic time is left."""
    compiler = shutil.which("cc")
    command = [compiler] if compiler else [sys.executable, "-m", "ziglang", "cc"]
    source, library, offset = directory / "clock.c", directory / "clock.so", directory / "offset"
    source.write_text(CLOCK)
    offset.write_bytes(bytes(8))
    built = subprocess.run(
        [*command, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip("no C compiler here that makes a library to preload")
    monkeypatch.setenv("CLOCK_OFFSET", str(offset))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    yield offset


def set_offset(file: Path, seconds: int) -> None:
    """In place, for it is mapped."""
    with file.open("r+b") as opened:
        opened.write(seconds.to_bytes(8, sys.byteorder, signed=True))


async def test_a_clock_that_jumps_ends_no_call_and_keeps_none_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with offset_clock(tmp_path, monkeypatch) as offset:
        seen = subprocess.run(
            [sys.executable, "-c", "import time; print(int(time.time()))"], capture_output=True, check=True,
            env={**os.environ, "CLOCK_OFFSET": str(_ahead(tmp_path))},
        )
        assert int(seen.stdout) > (1 << 31) + 86_400, "the clock of a child does not jump: nothing is tested"
        with pencil_server(step_seconds=0.002, hang_seconds=5) as server:
            monkeypatch.delenv("LD_PRELOAD")
            async with grpc.aio.insecure_channel(server.target) as channel:
                stub = make_stub(channel)
                for jump in (3600, -3600, 86_400, 0) * 3:
                    late = stub.Generate(ask(ids(*ENDLESS), max_new_tokens=64), timeout=0.05)
                    call = stub.Generate(ask("c d"), timeout=20)
                    await asyncio.sleep(0.01)
                    set_offset(offset, jump)
                    assert (await call).results[0].hypotheses[0].text == PENCIL_TEXT
                    assert await late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            server.process.terminate()
            assert await asyncio.to_thread(server.process.wait, 60) == 0


def _ahead(directory: Path) -> Path:
    file = directory / "ahead"
    file.write_bytes(bytes(8))
    set_offset(file, 1 << 31)
    return file
