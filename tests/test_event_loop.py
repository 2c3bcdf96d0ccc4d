"""Servers run on uvloop, and do without where there is none."""

import asyncio
import importlib
import sys
from unittest import mock

import uvloop

from seqserve_server import event_loop


async def kind_of_loop() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_a_server_runs_on_uvloop() -> None:
    assert event_loop.run(kind_of_loop()) is uvloop.Loop


def test_without_it_on_the_standard_loop() -> None:
    try:
        with mock.patch.dict(sys.modules, {"uvloop": None}):
            importlib.reload(event_loop)
        assert event_loop.run(kind_of_loop()).__module__.startswith("asyncio.")
    finally:
        importlib.reload(event_loop)
