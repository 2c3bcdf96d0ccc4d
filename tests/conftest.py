"""Settings of the whole suite."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from built_once import built_once, run_directory
from fake_server import FakeServer
from seqserve_client import AsyncClient, Client
from variants import VARIANTS

if TYPE_CHECKING:
    from built_bundle import Built

# No deadline: machines that run tests are busy. The same examples each time: a failure is one that anybody can repeat.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
# Tests that load the runtime themselves, before our packages do, report to nobody either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


# The files that take longest. Workers take whole files in order, and the last ones should be short: else one worker
# is at a long one while the others have nothing left.
LONGEST = ("fp16", "precision", "torture", "scorer_int8", "contention")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put them first; what a file holds stays in its order."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _traces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Graphs are traced once in a run, where any of its files imports the exporter."""
    if "seqserve_export.graphs.trace" in sys.modules:
        from traced_once import trace_once

        trace_once(run_directory(tmp_path_factory) / "traced")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random small model behind its real graphs; tests read it only."""
    from tiny_bundle import write_bundle  # here: most tests need no torch
    from traced_once import trace_once

    trace_once(run_directory(tmp_path_factory) / "traced")
    return built_once(run_directory(tmp_path_factory) / "tiny" / "bundle", write_bundle)


@pytest.fixture(scope="session", params=list(VARIANTS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Built":
    """Every architecture behind its real graphs; tests read it only."""
    from built_bundle import Built

    return Built(tmp_path_factory, request.param)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """What the client's own tests talk to; the real server is started by ``serving``."""
    with FakeServer() as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    """A client of it."""
    with Client(server.target, timeout=20) as connected:
        yield connected


@pytest.fixture
async def async_client(server: FakeServer) -> AsyncIterator[AsyncClient]:
    """An asyncio client of it."""
    async with AsyncClient(server.target, timeout=20) as connected:
        yield connected
