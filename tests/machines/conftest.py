"""The engine and the images of the tests that need real containers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live import missing
from tests.machines import building
from tests.machines import engine as engines
from tests.machines.engine import Engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a Docker engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.machines)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine: the one that runs, or one of our own for the length of the run."""
    if not engines.available():
        missing("docker")
    with engines.running() as running:
        yield running


@pytest.fixture(scope="session")
def slim_image(engine: Engine) -> str:
    """What stands for the public slim Python image."""
    return building.ensure(engine, "slim")


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """A Debian with Python, the Docker client, compose, git, ssh, PostgreSQL's client, curl and network tools."""
    return building.ensure(engine, "base")
