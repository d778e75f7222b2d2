"""The places where the contract of runtimes is tested: what a test must know of each to look behind its back."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Protocol
from uuid import UUID

import psutil
from tests.machines.fleet import Containers
from tests.machines.swarmfleet import Services

from wopr.fleet.runtimes.process import ProcessRuntime, stop_all
from wopr.fleet.runtimes.protocol import Runtime
from wopr.fleet.runtimes.record import read_record, strays


class Place(Protocol):
    """Where bots run, with its back door."""

    def make(self) -> Runtime:
        """A runtime, as a new process of the API would make it."""
        ...

    def living(self, bot_id: UUID) -> int:
        """How many instances of a bot live."""
        ...

    def kill(self, bot_id: UUID) -> None:
        """End a bot as a crash would."""
        ...

    def environment(self, bot_id: UUID) -> dict[str, str]:
        """The environment of a bot's process."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...


class ProcessPlace:
    """Processes of this machine under a folder."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._made: list[Runtime] = []

    def make(self) -> Runtime:
        self._made.append(ProcessRuntime(self._home))
        return self._made[-1]

    def living(self, bot_id: UUID) -> int:
        return len(self._pids(bot_id))

    def kill(self, bot_id: UUID) -> None:
        os.kill(self._pids(bot_id)[0], signal.SIGKILL)

    def environment(self, bot_id: UUID) -> dict[str, str]:
        record = read_record(self._home / "bots" / str(bot_id))
        assert record is not None
        return psutil.Process(record.pid).environ()

    async def close(self) -> None:
        await asyncio.to_thread(stop_all, self._home)
        for runtime in self._made:
            await runtime.close()
        assert [pid for pid, folder in strays() if self._home in folder.parents] == []

    def _pids(self, bot_id: UUID) -> list[int]:
        return [pid for pid, folder in strays() if folder.name == str(bot_id)]


class DockerPlace:
    """Containers of the engine of the tests."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def make(self) -> Runtime:
        return self._containers.make()

    def living(self, bot_id: UUID) -> int:
        return self._containers.living(bot_id)

    def kill(self, bot_id: UUID) -> None:
        self._containers.engine.docker("kill", self._containers.inspect(bot_id)["Id"])

    def environment(self, bot_id: UUID) -> dict[str, str]:
        told = self._containers.inside(bot_id, "print(open('/proc/1/environ').read())").stdout.split("\0")
        return dict(entry.split("=", 1) for entry in told if "=" in entry)

    async def close(self) -> None:
        await self._containers.close()


class SwarmPlace:
    """Services of the Swarm of the tests."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def make(self) -> Runtime:
        return self._services.make()

    def living(self, bot_id: UUID) -> int:
        return len(self._services.containers(bot_id))

    def kill(self, bot_id: UUID) -> None:
        node, container = self._services.containers(bot_id)[0]
        node.engine.docker("kill", container)

    def environment(self, bot_id: UUID) -> dict[str, str]:
        told = self._services.inside(bot_id, "print(open('/proc/1/environ').read())").stdout.split("\0")
        return dict(entry.split("=", 1) for entry in told if "=" in entry)

    async def close(self) -> None:
        await self._services.close()
