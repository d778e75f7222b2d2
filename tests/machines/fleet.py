"""Bots in real containers: a runtime as production builds it, on an engine of the tests."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.machines.engine import Engine

from wopr.bot import contract
from wopr.core.ids import BotId, new_id
from wopr.core.settings import Settings
from wopr.fleet.build import bot_http, docker_runtime
from wopr.fleet.environment import Access, Character, bot_environment, limits_of
from wopr.fleet.runtimes import firewall
from wopr.fleet.runtimes.addresses import bot_network
from wopr.fleet.runtimes.containers import LABEL_IMAGE, container_name, former_name, volume_name
from wopr.fleet.runtimes.docker import DockerRuntime
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.node_agent import MARK
from wopr.fleet.runtimes.protocol import BotSpec, Instance

WAIT_SECONDS = 60.0
SECRET = "a secret of the tests that is long enough"


@dataclass
class Containers:
    """One installation on an engine, and runtimes for it, as one process of the API after the other would have them."""

    engine: Engine
    image: str
    home: Path
    made: list[DockerRuntime] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        """The settings of the installation, with these other values."""
        values: dict[str, Any] = {
            "wopr_home": self.home,
            "bot_runtime": "docker",
            "bot_image": self.image,
            "docker_host": self.engine.socket,
            "wopr_installation": self.engine.run_id,
            "platform_secret": SECRET,
        }
        return Settings(**(values | changes))

    def make(self, **changes: Any) -> DockerRuntime:
        """A runtime, as a new process would make it."""
        self.made.append(docker_runtime(self.settings(**changes)))
        return self.made[-1]

    async def close(self) -> None:
        """Close what was made, and leave nothing of the installation but its network."""
        for runtime in self.made:
            await runtime.close()
        self.made.clear()
        await asyncio.to_thread(self.sweep)

    def living(self, bot_id: UUID | str) -> int:
        """How many containers of a bot run."""
        chosen = ("--filter", f"label=wopr.bot={bot_id}", "--quiet")
        return len(self.engine.docker("ps", *chosen).stdout.split())

    def inspect(self, bot_id: UUID | str) -> dict[str, Any]:
        """The engine's description of a bot's container."""
        found: list[dict[str, Any]] = json.loads(
            self.engine.docker("inspect", container_name(BotId(UUID(str(bot_id))))).stdout
        )
        return found[0]

    def inside(self, bot_id: UUID | str, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in a bot's container, as the bot: what somebody could do who took it over."""
        command = ("exec", container_name(BotId(UUID(str(bot_id)))), "python", "-c", program, *arguments)
        return self.engine.docker(*command, check=False, seconds=60)

    def image_of(self, bot_id: UUID) -> str:
        """The image that a bot runs on, as it was named."""
        return str(self.inspect(bot_id)["Config"]["Labels"][LABEL_IMAGE])

    def has_volume(self, bot_id: UUID, name: str) -> bool:
        """Whether there is such a volume where the bot is."""
        return self.engine.docker("volume", "inspect", name, check=False).returncode == 0

    def exists(self, bot_id: UUID | str) -> dict[str, bool]:
        """What is left of a bot on the engine."""
        known = BotId(UUID(str(bot_id)))
        names = {"container": container_name(known), "former": former_name(known)}
        found = {
            what: self.engine.docker("container", "inspect", name, check=False).returncode == 0
            for what, name in names.items()
        }
        volume = self.engine.docker("volume", "inspect", volume_name(known), check=False).returncode == 0
        return {**found, "volume": volume}

    def take_down(self) -> None:
        """Take the fence away."""
        policy = Policy(bot_network(self.settings()), None)
        subprocess.run(firewall.removal(policy), capture_output=True, check=False)

    def let_go(self, installation: str) -> None:
        """Give back the images that an installation holds; those that nobody else holds go."""
        tags = self.engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        marks = [tag for tag in tags if f":{MARK}{installation}." in tag]
        if marks:
            self.engine.docker("rmi", "--force", *marks, check=False)

    def sweep(self) -> None:
        """Leave no container, no volume and no image that it held."""
        chosen = ("--filter", f"label=wopr.installation={self.engine.run_id}", "--quiet")
        self.engine.remove(*self.engine.docker("ps", "--all", *chosen).stdout.split())
        volumes = self.engine.docker("volume", "ls", *chosen).stdout.split()
        if volumes:
            self.engine.docker("volume", "rm", "--force", *volumes, check=False)
        self.let_go(self.engine.run_id)


@pytest.fixture(scope="session")
def bots_installation(engine: Engine, bot_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """An installation for the whole run; its firewall is taken away at the end, the engine's sweep does the rest."""
    place = Containers(engine, bot_image, tmp_path_factory.mktemp("bots"))
    yield place
    place.sweep()
    place.take_down()


@pytest.fixture
async def bots(bots_installation: Containers) -> AsyncIterator[Containers]:
    """The installation without any bot, before and after the test."""
    yield bots_installation
    await bots_installation.close()


def spec(bot_id: UUID | None = None, generation: int = 1, *, size: str = "standard", image: str = "") -> BotSpec:
    """A bot whose gateway answers nothing."""
    bot = BotId(bot_id or new_id())
    character = Character(bot, "Ada", "You are kind.", "", "handbook", "rms")
    environment = bot_environment(character, Access("http://127.0.0.1:9/v1", "wopr_bot_0000000000"))
    return BotSpec(bot, generation, size, limits_of(size), environment, image)


async def answering(instance: Instance) -> httpx.Response:
    """The first answer of a bot's health route."""
    async with bot_http() as http, asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await http.get(instance.url + contract.ROUTE_HEALTH)
            except httpx.TransportError:
                await asyncio.sleep(0.02)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
