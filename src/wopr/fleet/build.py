"""Puts the fleet of one process together. Making it touches nothing; it begins to work with its first pass."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.core.vault import Vault
from wopr.fleet.changes import Changes
from wopr.fleet.choices import FindChoices, know_nothing
from wopr.fleet.runtimes.addresses import bot_network, gateway, name_servers
from wopr.fleet.runtimes.process import ProcessRuntime, stop_all
from wopr.fleet.runtimes.protocol import Runtime

if TYPE_CHECKING:
    from wopr.fleet.runtimes.docker import DockerRuntime

CONNECTIONS_MAX = 2_000
CONNECT_SECONDS = 2.0
READ_SECONDS = 60.0


@dataclass(frozen=True)
class Fleet:
    """Where bots run, and the connections to them. Any number of processes may have one at once."""

    runtime: Runtime
    http: httpx.AsyncClient
    changes: Changes
    find_choices: FindChoices = know_nothing

    async def close(self) -> None:
        """Give back connections and watches; the bots go on."""
        await self.http.aclose()
        await self.runtime.close()


class SharedFleet:
    """The one fleet of a process, for its routes and its loops; made at its first use, closed with the process."""

    def __init__(self, platform: Platform, find_choices: FindChoices = know_nothing) -> None:
        self._platform = platform
        self._find_choices = find_choices
        self._fleet: Fleet | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def get(self) -> Fleet:
        """The fleet; NotConfigured names what its way of running bots lacks."""
        if self._fleet is None:
            self._fleet = build_fleet(self._platform, self._find_choices)
        return self._fleet

    def before_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Call this when the process ends, before the connections are closed."""
        self._closers.append(closer)

    async def close(self) -> None:
        """Give everything back; the bots go on."""
        while self._closers:
            await self._closers.pop()()
        if self._fleet is not None:
            await self._fleet.close()
            self._fleet = None


def build_fleet(platform: Platform, find_choices: FindChoices = know_nothing) -> Fleet:
    """The fleet of these settings. `find_choices` tells what its bots may be made of."""
    return Fleet(_runtime(platform.settings), bot_http(), Changes(platform.notifier), find_choices)


async def stop_bots(settings: Settings) -> int:
    """End every bot of this installation, without a database: for who ran it on one machine. How many there were."""
    if settings.bot_runtime != "docker":
        return await asyncio.to_thread(stop_all, settings.wopr_home)
    runtime = docker_runtime(settings)
    try:
        return await runtime.stop_all()
    finally:
        await runtime.close()


def bot_http() -> httpx.AsyncClient:
    """Connections to bots: never through a proxy of the machine, many at once, since each open chat holds one."""
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=100)
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    # Bots are reached by plain HTTP; loading certificates would only cost time and memory.
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False, verify=False)  # noqa: S501


def docker_runtime(settings: Settings) -> "DockerRuntime":
    """Bots in containers of the engine at DOCKER_HOST. NotConfigured names what is missing."""
    # Here, not above: where bots are processes, the engine's client costs only time and memory.
    from wopr.fleet.runtimes.docker import DockerRuntime, Installation
    from wopr.fleet.runtimes.engine import Engine
    from wopr.fleet.runtimes.fence import Means
    from wopr.fleet.runtimes.firewall import Policy
    from wopr.fleet.runtimes.images import Credentials

    tokens = Vault(settings.require("platform_secret", "Running bots"), "wopr bots tokens")
    password = settings.registry_password.get_secret_value() if settings.registry_password else ""
    installation = Installation(
        name=settings.installation,
        image=settings.bot_image,
        credentials=Credentials(settings.registry_server, settings.registry_username, password),
        policy=Policy(bot_network(settings), gateway(settings), name_servers(settings.bot_dns)),
        means=Means(settings.bot_firewall, settings.bot_firewall_image),
        tokens=tokens,
        reserve=settings.bot_disk_reserve,
    )
    return DockerRuntime(Engine(settings.docker_host), installation)


def _runtime(settings: Settings) -> Runtime:
    if settings.bot_runtime == "process":
        return ProcessRuntime(settings.wopr_home)
    if settings.bot_runtime == "docker":
        return docker_runtime(settings)
    from wopr.fleet.swarming import swarm_runtime

    return swarm_runtime(settings)
