"""What swaps of a bundle leave in memory: ``python -m torture.swap_memory BUNDLE COUNT``, for memory is a process's."""

import asyncio
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc

from seqserve.manifest import MANIFEST_FILE, write_manifest
from seqserve_server import allocator
from seqserve_server.config import ServerConfig
from seqserve_server.served_model import ServedModel
from seqserve_server.server import RunningServer, open_model, running_server
from serving import ask, ids, make_config, make_stub
from torture.memory import resident
from torture.progress import Progress

CALLERS = 4
PLANTED = "--keep"  # a version that has gone is kept


async def _measured(bundle: Path, count: int, load: Callable[[ServerConfig], ServedModel]) -> tuple[int, int]:
    """KiB in memory after a first swap, and when the last version that was replaced has gone."""
    with tempfile.TemporaryDirectory() as directory:
        link = _two_versions(bundle, Path(directory))
        config = make_config(bundles=(link,), cache_bytes=1 << 26, max_rows=16)
        async with (
            running_server(config, load, _untried) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            over = asyncio.Event()
            calls = [asyncio.create_task(_caller(channel, over)) for _ in range(CALLERS)]
            await _swapped(server, link, "b")  # once, so that whatever is made once is there
            before, progress = _settled(), Progress("swap_memory", count)
            for number in range(count):
                await _swapped(server, link, "ab"[number % 2])
                progress.add()
            after = _settled()
            over.set()
            await asyncio.gather(*calls)
    return before, after


def _two_versions(bundle: Path, directory: Path) -> Path:
    for version in "ab":
        shutil.copytree(bundle, directory / version)
        model = directory / version / "model.json"
        given = json.loads(model.read_text())
        given["default_max_new_tokens"] -= version == "b"
        model.write_text(json.dumps(given))
        (directory / version / MANIFEST_FILE).unlink()
        write_manifest(directory / version)
    link = directory / "current"
    link.symlink_to("a")
    return link


async def _swapped(server: RunningServer, link: Path, version: str) -> None:
    """Serve this version, and wait until the other has left memory."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(version)
    fresh.replace(link)
    before = server.models.all()[0].version
    server.reload.set()
    while server.models.all()[0].version == before:
        await asyncio.sleep(0.002)
    while any(task.get_name() == "retire" for task in asyncio.all_tasks()):
        await asyncio.sleep(0.002)


async def _caller(channel: grpc.aio.Channel, over: asyncio.Event) -> None:
    generate = make_stub(channel).Generate
    while not over.is_set():
        await generate(ask(ids(5, 6, 7), ids(9, 8), max_new_tokens=16))


def _settled() -> int:
    allocator.give_back()
    return resident("self")


async def _untried(path: Path, version: str) -> str:
    """Its trial takes a process and changes nothing in this one."""
    del path, version
    return "untried"


def main() -> None:
    """Print the two figures as JSON."""
    logging.disable()
    kept: list[ServedModel] = []

    def load(config: ServerConfig) -> ServedModel:
        model = open_model(config)
        if PLANTED in sys.argv:
            kept.append(model)
        return model

    allocator.bound_arenas()
    figures = asyncio.run(_measured(Path(sys.argv[1]), int(sys.argv[2]), load))
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
