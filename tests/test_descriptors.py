"""A server that may open few files, and many who connect: it says no to those beyond, and to nobody afterwards."""

import asyncio
import contextlib
import resource
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli_process import start
from malformed import PREFACE, SETTINGS, frame
from seqserve_client import Client

FILES = 300


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[tuple[Any, str, str]]:
    """A server's process that may have so many files open, its gRPC and its metrics address."""
    process = start(
        "serve", str(bundle), "--port", "0", "--metrics-port", "0", "--threads", "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
    )
    try:
        words = process.stdout.readline().split()
        assert words, process.communicate()
        yield process, words[1].removeprefix("grpc="), words[2].removeprefix("metrics=")
    finally:
        process.kill()
        process.communicate()


async def accepted(target: str) -> tuple[bool, asyncio.StreamWriter]:
    """One connection, and whether the server took it."""
    host, _, port = target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        return (await reader.readexactly(9))[3] == SETTINGS, writer
    except (OSError, asyncio.IncompleteReadError):
        return False, writer


async def test_a_storm_of_connections_is_weathered(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as (process, target, metrics):
        open_before = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        found = [await accepted(target) for _ in range(2 * FILES)]
        taken = sum(took for took, _ in found)
        assert FILES - 150 < taken < FILES
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < FILES

        def scrape() -> bool:
            with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
                return b"seqserve" in response.read()

        assert await asyncio.to_thread(scrape)  # descriptors were left for this
        for _, writer in found:
            writer.close()
        while len(list(Path(f"/proc/{process.pid}/fd").iterdir())) > open_before + 5:
            await asyncio.sleep(0.05)

        def ask() -> int:
            with Client(target, timeout=60) as client:
                return len(client.generate(token_ids=[[5, 17]], max_new_tokens=4))

        assert await asyncio.to_thread(ask) == 1
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
        said = process.stderr.read()
        assert f"--max-connections: {FILES - 128}, not 4096: this process may have {FILES} open files" in said
        assert "Traceback" not in said
