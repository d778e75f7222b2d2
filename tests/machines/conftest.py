"""The engine and the images of the tests that need real containers."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.live import missing
from tests.machines import building
from tests.machines import engine as engines
from tests.machines import registry as registries
from tests.machines.engine import Engine
from tests.machines.fleet import bots, bots_installation  # noqa: F401 (fixtures)
from tests.machines.nodes import box, images, weights  # noqa: F401 (fixtures)
from tests.machines.registry import Registry
from tests.machines.swarm import swarm  # noqa: F401 (fixture)
from tests.machines.swarmfleet import private, publish, services  # noqa: F401 (fixtures)


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


@pytest.fixture(scope="session")
def platform_image(engine: Engine) -> str:
    """The platform's image, built from this checkout by `wopr images build`."""
    return building.ours(engine, "platform")


@pytest.fixture(scope="session")
def bot_image(engine: Engine) -> str:
    """The bots' image, built from this checkout by `wopr images build`."""
    return building.ours(engine, "bot")


@pytest.fixture(scope="session")
def third_party_images(engine: Engine) -> Mapping[str, str]:
    """What stands for other people's images, by a short name; each is tagged in this engine as the real one is."""
    return {name: building.ensure(engine, name) for name in building.THIRD_PARTIES}


@pytest.fixture(scope="session")
def registry(engine: Engine) -> Iterator[Registry]:
    """A registry behind a password that the engine reaches; `tests.machines.registry.serving` starts others."""
    for program in registries.PROGRAMS:
        if shutil.which(program) is None:
            missing(program)
    with registries.serving(engine) as running:
        yield running
