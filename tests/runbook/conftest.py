"""The engine and the images come from the tests of containers; the flows are in their group."""

from pathlib import Path

import pytest
from tests.machines.conftest import (  # noqa: F401 (fixtures)
    bot_image,
    engine,
    platform_image,
    third_party_images,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an engine is done with the others that need one."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.machines)
