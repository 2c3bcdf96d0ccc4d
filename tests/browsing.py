"""A playground in front of a server, and a real browser before it; each an async context manager."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from seqserve_client import AsyncClient
from seqserve_playground import web_server
from seqserve_playground.application import Handlers
from seqserve_playground.live_metrics import LiveMetrics

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed, by which the browser is driven")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(CHROMIUM)} is on the path")
    return found


@contextlib.asynccontextmanager
async def playground(target: str, metrics: str = "127.0.0.1:1") -> AsyncIterator[str]:
    """Serve the page on a free port, in this loop; yields its address."""
    listening = web_server.listen("127.0.0.1", 0)
    async with AsyncClient(target, timeout=30) as client:
        ready = asyncio.Event()
        server = web_server.PageServer(Handlers(client, target, LiveMetrics(metrics)), ready.set)
        task = asyncio.create_task(server.serve([listening]))
        try:
            await ready.wait()
            yield web_server.address_of(listening)
        finally:
            server.should_exit = True
            await task
            listening.close()


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator["Browser"]:
    """Chromium without a window; its process ends with the block."""
    path = chromium()
    from playwright.async_api import async_playwright

    # Its sandbox needs a user that is not root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=path, args=arguments)
        try:
            yield started
        finally:
            await started.close()
