"""Containers are one of the places where the contract of runtimes holds: their engine is that of the machine tests."""

from tests.machines.conftest import (  # noqa: F401
    base_image,
    bot_image,
    bots_installation,
    engine,
    slim_image,
    swarm,
)
