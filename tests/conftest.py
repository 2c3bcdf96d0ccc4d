"""Settings of the whole suite."""

from pathlib import Path

import pytest
from hypothesis import settings

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
