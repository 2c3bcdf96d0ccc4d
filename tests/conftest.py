"""Settings of the whole suite."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fake_server import FakeServer
from seqserve_client import AsyncClient, Client

# No deadline: machines that run tests are busy. The same examples each time: a failure is one that anybody can repeat.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random small model behind its real graphs; tests read it only."""
    from tiny_bundle import write_bundle  # here: most tests need no torch

    directory = tmp_path_factory.mktemp("tiny") / "bundle"
    write_bundle(directory)
    return directory


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
