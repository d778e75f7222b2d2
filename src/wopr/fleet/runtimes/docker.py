"""Bots as containers of one machine, confined in what they may use, reach and change. They outlive the API.

A bot's container has one name, which the engine refuses to give twice, and labels that say which start of which bot it
is: whatever process died in the middle of what, the next one sees exactly what is there. Each start is a new container.
The one before is kept, stopped, for its log, which says why it ended; data is in a volume of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_urlsafe
from time import monotonic

from wopr.bot.contract import DEFAULT_PORT, STOP_SECONDS_MAX
from wopr.core.ids import BotId, new_id
from wopr.core.vault import Vault
from wopr.fleet.runtimes import containers, enginelog, node_guard
from wopr.fleet.runtimes.bridge import Bridge
from wopr.fleet.runtimes.containers import Place, Start, container_name, former_name, instance_of
from wopr.fleet.runtimes.ends import Ends
from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.fence import Fence, Means
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.images import Credentials, Images
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, LogLine, RuntimeFailed
from wopr.fleet.runtimes.quota import Quotas
from wopr.fleet.runtimes.volumes import VolumeCopies, remove_volume

STOPS_AT_ONCE_MAX = 32
GRACE_SECONDS = int(STOP_SECONDS_MAX) + 1
VIEW_SECONDS_MAX = 60.0
NEXT_CONTAINER_SECONDS = 0.5
# An instance that ended before it was looked at has no address any more; this one never resolves (RFC 2606).
NOWHERE = f"http://ended.invalid:{DEFAULT_PORT}"
BUSY = "Another process is starting this bot at the moment."


@dataclass(frozen=True)
class Installation:
    """Everything that a runtime on an engine is told: whose it is, its image and how to get it, its network."""

    name: str
    image: str
    credentials: Credentials
    policy: Policy
    means: Means
    tokens: Vault = field(repr=False)
    reserve: int  # percent of the disk


class DockerRuntime:
    """The runtime of one engine for one installation; several may share an engine and don't see each other."""

    def __init__(self, engine: Engine, installation: Installation) -> None:
        self._engine = engine
        self._name = installation.name
        self._image = installation.image
        self._images = Images(engine, installation.name, installation.credentials)
        policy = installation.policy
        self._bridge = Bridge(engine, policy.network, containers.ours(installation.name))
        self._fence = Fence(engine, self._images, installation.means, policy)
        self._ends = Ends(engine, installation.name, self._changed)
        self._quotas = Quotas(engine, installation.name, installation.reserve)
        self.copies = VolumeCopies(engine, installation.name)
        self._place = Place(
            installation.name, policy.network.name, policy.name_servers, cpus=0.0, tokens=installation.tokens
        )
        self._view: Mapping[BotId, Instance] = {}
        self._view_since = float("-inf")

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        self._ends.on_end = on_end

    async def observe(self) -> Mapping[BotId, Instance]:
        """One listing, and none while the engine reports that nothing happened since the last one."""
        await self._ends.begin()
        await self._bridge.join()
        if not self._ends.listening or monotonic() - self._view_since > VIEW_SECONDS_MAX:
            # Noted before the listing: what happens during it is seen by the next one.
            self._view_since = monotonic()
            try:
                self._view = await self._list()
            except RuntimeFailed:
                self._changed()
                raise
        return dict(self._view)

    async def locate(self, bot_id: BotId) -> Instance | None:
        await self._bridge.join()
        return self._living(await self._engine.inspect(container_name(bot_id)))

    def held(self, bot_id: BotId) -> str:
        return ""  # what a bot keeps is on the engine's machine

    async def prepare(self, bot_id: BotId, image: str) -> None:
        await self._images.hold(image or self._image)

    async def start(self, spec: BotSpec) -> Instance:
        await self._ends.begin()
        present = await self._engine.inspect(container_name(spec.bot_id))
        instance = self._living(present)
        if instance is not None and instance.generation == spec.generation:
            return instance
        # All that can fail comes before the old instance is ended.
        self._quotas.refuse(spec)
        image = spec.image or self._image
        await self._images.hold(image)
        await self._enclose()
        if present is not None:
            await self._retire(spec.bot_id, present)
        return await self._launch(spec, image)

    async def stop(self, bot_id: BotId) -> None:
        present = await self._engine.inspect(container_name(bot_id))
        if present is None or not self._owns(present):
            return
        self._ends.expect(present["Id"])
        if present["State"]["Running"]:
            await self._engine.stop(present["Id"], GRACE_SECONDS)
        elif present["State"]["Status"] == "created":
            await self._engine.remove(present["Id"])
        self._changed()

    async def remove(self, bot_id: BotId) -> None:
        labels = containers.labels_of(self._name, bot_id)
        for container in await self._engine.containers(labels, stopped=True):
            self._ends.expect(container["Id"])
            await self._engine.remove(container["Id"])
        for volume in await self._engine.volumes(labels):
            await remove_volume(self._engine, volume)
        self._changed()

    async def stop_all(self) -> int:
        """End every bot of the installation, many at once; how many. One that is starting counts, too."""
        labels = containers.ours(self._name)
        room = asyncio.Semaphore(STOPS_AT_ONCE_MAX)

        async def stop(container: str) -> None:
            async with room:
                self._ends.expect(container)
                await self._engine.stop(container, GRACE_SECONDS)

        running = [str(container["Id"]) for container in await self._engine.containers(labels)]
        await asyncio.gather(*(stop(container) for container in running))
        return len(running)

    async def tend(self) -> int:
        """Looks after the fence. The engine rotates the logs itself."""
        if not await self.observe():
            return 0  # nobody to fence in: on an engine without bots, nothing of theirs is made
        return int(await self._enclose()) + await self._bridge.attach()

    async def guard(self) -> int:
        found = await self._quotas.look()
        for culprit in found:
            self._ends.expect(culprit.container, culprit.excess.reason)
        await asyncio.gather(*(self._engine.stop(culprit.container, node_guard.GRACE_SECONDS) for culprit in found))
        return len(found)

    async def prune(self, needed: Sequence[str]) -> int:
        return await self._images.prune(needed)

    def doubt(self) -> None:
        """Look at the network and put up the fence anew before the next start or with the next `tend`."""
        self._bridge.doubt()
        self._fence.doubt()

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        lines: list[LogLine] = []
        for name in (container_name(bot_id), former_name(bot_id)):
            if len(lines) < tail:
                lines = [*await self._tail(name, tail - len(lines)), *lines]
        return lines

    async def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        """The log of the present instance, then of those that follow it."""
        present = await self._engine.inspect(container_name(bot_id))
        known = await self._tail(container_name(bot_id), tail)
        for line in await self._tail(former_name(bot_id), tail - len(known)):
            yield line
        wanted = tail
        while True:
            if present is not None:
                async with aclosing(enginelog.follow(self._engine, present["Id"], wanted)) as lines:  # type: ignore[type-var]
                    async for line in lines:
                        yield line
            present, wanted = await self._next(bot_id, present), enginelog.ALL

    async def close(self) -> None:
        await self._ends.close()
        await self._images.close()
        await self._engine.close()

    def _changed(self) -> None:
        self._view_since = float("-inf")
        if not self._ends.listening:
            # The engine was away: its machine may have been started anew, with other networks and rules.
            self.doubt()

    def _owns(self, inspected: Json) -> bool:
        return bool((inspected["Config"]["Labels"] or {}).get(containers.LABEL_INSTALLATION) == self._name)

    def _living(self, inspected: Json | None) -> Instance | None:
        if inspected is None or not inspected["State"]["Running"] or not self._owns(inspected):
            return None
        return instance_of(containers.as_listed(inspected), self._place)

    async def _list(self) -> dict[BotId, Instance]:
        listed = await self._engine.containers(containers.ours(self._name))
        found = (instance_of(entry, self._place) for entry in listed)
        return {instance.bot_id: instance for instance in found if instance is not None}

    async def _enclose(self) -> bool:
        looked = await self._bridge.ensure()
        if looked:
            await self._bridge.attach()
            self._fence.doubt()
        return await self._fence.ensure()

    async def _retire(self, bot_id: BotId, present: Json) -> None:
        """Make room for a new container: end this one, and keep it for its log if it ever ran."""
        if not self._owns(present):
            owner = (present["Config"]["Labels"] or {}).get(containers.LABEL_INSTALLATION)
            raise RuntimeFailed(
                f"There is a container of this bot that belongs to the installation {owner}, not to {self._name}.",
                remedy=f"Set WOPR_INSTALLATION={owner} if that is this one, or remove {container_name(bot_id)}.",
            )
        self._ends.expect(present["Id"])
        if present["State"]["Running"]:
            await self._engine.stop(present["Id"], GRACE_SECONDS)
        if present["State"]["Status"] == "created":
            await self._engine.remove(present["Id"])
            return
        await self._engine.remove(former_name(bot_id))
        try:
            await self._engine.rename(present["Id"], former_name(bot_id))
        except EngineRefused as error:
            if error.http_status not in (CONFLICT, NOT_FOUND):
                raise
            await self._engine.remove(present["Id"])

    async def _launch(self, spec: BotSpec, image: str) -> Instance:
        begin = Start(new_id(), datetime.now(UTC), token_urlsafe(32))
        labels = containers.labels_of(self._name, spec.bot_id)
        volume = {"Name": containers.volume_name(spec.bot_id), "Labels": labels}
        await self._engine.call("POST", "volumes/create", body=volume)
        place = replace(self._place, cpus=await self._cpus())
        try:
            container = await self._engine.create(
                container_name(spec.bot_id), containers.describe(spec, begin, place, image)
            )
        except EngineRefused as error:
            if error.http_status == CONFLICT:
                raise RuntimeFailed(BUSY) from error
            raise
        try:
            await self._engine.start(container)
            inspected = await self._engine.inspect(container)
        except (RuntimeFailed, asyncio.CancelledError) as error:
            if isinstance(error, EngineRefused):
                self._bridge.doubt()
            # Nobody saw it run: it would only stand in the way of the next start.
            with contextlib.suppress(RuntimeFailed):
                await asyncio.shield(self._engine.remove(container))
            raise
        self._changed()
        if inspected is None:
            raise RuntimeFailed(BUSY)
        return self._living(inspected) or Instance(
            begin.instance_id, spec.bot_id, spec.generation, NOWHERE, begin.at, begin.token
        )

    async def _cpus(self) -> float:
        if not self._place.cpus:
            count = float((await self._engine.call("GET", "info"))["NCPU"])
            self._place = replace(self._place, cpus=count)
        return self._place.cpus

    async def _tail(self, name: str, count: int) -> list[LogLine]:
        try:
            return await enginelog.tail(self._engine, name, count)
        except EngineRefused as error:
            if error.http_status == NOT_FOUND:
                return []
            raise

    async def _next(self, bot_id: BotId, before: Json | None) -> Json:
        """The container that follows this one."""
        while True:
            present = await self._engine.inspect(container_name(bot_id))
            if present is not None and (before is None or present["Id"] != before["Id"]):
                return present
            await asyncio.sleep(NEXT_CONTAINER_SECONDS)
