"""Bots on a real Swarm: a runtime as production builds it, and what a test must know to look behind its back."""

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.machines.engine import Engine
from tests.machines.fleet import SECRET
from tests.machines.registry import Registry, serving
from tests.machines.swarm import Node, Swarm

from wopr.core.ids import BotId
from wopr.core.settings import Settings
from wopr.fleet.runtimes.containers import container_name
from wopr.fleet.runtimes.swarm import SwarmRuntime
from wopr.fleet.swarming import swarm_runtime

Publish = Callable[..., str]


@dataclass
class Services:
    """One installation on a Swarm, and runtimes for it, as one process of the API after the other would have them."""

    swarm: Swarm
    home: Path
    made: list[SwarmRuntime] = field(default_factory=list)

    @property
    def manager(self) -> Engine:
        return self.swarm.manager.engine

    def settings(self, **changes: Any) -> Settings:
        """The settings of the installation, with these other values."""
        bot_image, agent_image = self.swarm.images
        values: dict[str, Any] = {
            "wopr_home": self.home,
            "bot_runtime": "swarm",
            "bot_image": bot_image,
            "bot_firewall_image": agent_image,
            "bot_gateway_url": f"http://{self.swarm.gateway}:3100",
            # The tests are the API, on the machine whose containers the machines of the Swarm are.
            "bot_callers": self.swarm.gateway,
            "docker_host": self.manager.socket,
            "wopr_installation": self.manager.run_id,
            "platform_secret": SECRET,
        }
        return Settings(**(values | changes))

    def make(self, **changes: Any) -> SwarmRuntime:
        """A runtime, as a new process would make it."""
        self.made.append(swarm_runtime(self.settings(**changes)))
        return self.made[-1]

    def home_of(self, bot_id: UUID) -> Node:
        """The machine that has a bot's memory."""
        labels = self.swarm.inspect(container_name(BotId(bot_id)))["Spec"]["Labels"]
        return self.swarm.node(labels["wopr.node"])

    def containers(self, bot_id: UUID) -> list[tuple[Node, str]]:
        """The running containers of a bot, on whatever machine that answers."""
        chosen = ("ps", "--filter", f"label=wopr.bot={bot_id}", "--quiet")
        found = [(node, node.engine.docker(*chosen, check=False).stdout.split()) for node in self.swarm.nodes]
        return [(node, container) for node, containers in found for container in containers]

    def inside(self, bot_id: UUID, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in a bot's container, as the bot."""
        node, container = self.containers(bot_id)[0]
        return node.engine.docker("exec", container, "python", "-c", program, *arguments, check=False, seconds=60)

    def volumes(self, bot_id: UUID) -> list[str]:
        """The machines that have a volume of a bot."""
        chosen = ("volume", "ls", "--filter", f"label=wopr.bot={bot_id}", "--quiet")
        return [node.name for node in self.swarm.nodes if node.engine.docker(*chosen, check=False).stdout.strip()]

    def image_of(self, bot_id: UUID) -> str:
        """The image that a bot runs on, as it was named."""
        node, container = self.containers(bot_id)[0]
        form = '{{index .Config.Labels "wopr.image"}}'
        return node.engine.docker("inspect", "--format", form, container).stdout.strip()

    def has_volume(self, bot_id: UUID, name: str) -> bool:
        """Whether there is such a volume where the bot is."""
        return self.home_of(bot_id).engine.docker("volume", "inspect", name, check=False).returncode == 0

    async def close(self) -> None:
        """Close what was made, and leave no bot; the agents stay for the next test."""
        for runtime in self.made:
            await runtime.close()
        self.made.clear()
        await asyncio.to_thread(self.sweep)

    def sweep(self) -> None:
        """Leave no service of a bot."""
        bots = {*self.swarm.services("wopr.bot"), *self.swarm.services("wopr.errand")}
        if bots:
            self.manager.docker("service", "rm", *bots, check=False)


@pytest.fixture
async def services(swarm: Swarm, tmp_path: Path) -> AsyncIterator[Services]:
    """The installation without any bot, before and after the test."""
    made = Services(swarm, tmp_path)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def private(swarm: Swarm) -> Iterator[Registry]:
    """A registry behind a password that the machines reach."""
    with serving(swarm.manager.engine, host=swarm.gateway) as running:
        yield running


@pytest.fixture
def publish(swarm: Swarm, private: Registry, bot_image: str) -> Iterator[Publish]:
    """Puts a new image of bots, with this line more, into the registry; no machine has it. Its reference by digest."""
    made: list[str] = []

    def new(line: str = "") -> str:
        engine, tag = swarm.manager.engine, f"wopr-test/fresh:{secrets.token_hex(6)}"
        engine.docker("build", "--tag", tag, "-", input=f"FROM {bot_image}\nLABEL wopr.fresh={tag}\n{line}\n")
        made.append(private.push(tag, "wopr/wopr-bot:latest"))
        engine.docker("rmi", "--force", tag, made[-1])
        return made[-1]

    yield new
    if made:
        for node in swarm.nodes:
            node.engine.docker("rmi", "--force", *made, check=False)


def login(registry: Registry) -> dict[str, Any]:
    """The settings for a registry."""
    return {
        "registry_server": registry.server,
        "registry_username": registry.username,
        "registry_password": registry.password,
    }
