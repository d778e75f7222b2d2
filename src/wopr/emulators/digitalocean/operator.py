"""Carries out what the API accepted. Everything it needs is in the store, so a kill at any moment loses nothing:
the next start finds the same actions in progress and the same machines, and goes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from functools import partial

from wopr.emulators.digitalocean import actions, droplets, faults, firewalls
from wopr.emulators.digitalocean.errors import ActionFailed
from wopr.emulators.digitalocean.machines import Addresses, Machines, Power
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document

_LOOK_SECONDS = 5.0  # how often machines are looked at although nobody said that one changed
_AFTER_FAILURE_SECONDS = 3.0
log = logging.getLogger(__name__)


class Operator:
    """One task for each droplet that wants attention; never two for one."""

    def __init__(self, world: World, machines: Machines) -> None:
        self._world = world
        self._machines = machines
        self._something = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        world.wake = self._something.set

    async def run(self) -> None:
        """Until it is cancelled. Machines that can't be reached are tried again, and again."""
        while True:
            try:
                await self._work()
            except (ActionFailed, OSError) as failed:
                log.warning("the machines can't be reached: %s", failed)
                await asyncio.sleep(_LOOK_SECONDS)

    async def _work(self) -> None:
        try:
            await self._machines.open(self._something.set)
            await self._tidy()
            while True:
                self._something.clear()
                self._attend(await self._machines.power())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._something.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._machines.close()

    async def _tidy(self) -> None:
        """Machines without a droplet are what a kill left, or a store that was thrown away."""
        known = {int(droplet["id"]) for droplet in droplets.all_of(self._world)}
        for droplet_id in await self._machines.power():
            if droplet_id not in known:
                await self._machines.destroy(droplet_id)

    def _attend(self, power: Mapping[int, Power]) -> None:
        for droplet in droplets.all_of(self._world):
            key = droplet["id"]
            if key not in self._tasks and self._wants(droplet, power.get(int(key), Power.ABSENT)):
                task = asyncio.create_task(self._look_after(key))
                self._tasks[key] = task
                task.add_done_callback(partial(self._done, key))

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("droplet %s is tried again at the next look", key, exc_info=error)
        else:
            self._something.set()

    def _wants(self, droplet: Document, power: Power) -> bool:
        if droplet.get("_destroyed") or actions.pending(self._world, droplet["id"]) is not None:
            return True
        if droplet["status"] == "active" and power is not Power.RUNNING:
            return True
        return droplet["status"] != "new" and droplet.get("_wall") != self._mark(droplet)

    async def _look_after(self, key: str) -> None:
        try:
            # Looked at anew: what made this task was seen while the task before it may have been at work.
            await self._next_step(key, (await self._machines.power()).get(int(key), Power.ABSENT))
        except ActionFailed as failed:
            log.warning("droplet %s: %s", key, failed)
            await asyncio.sleep(_AFTER_FAILURE_SECONDS)

    async def _next_step(self, key: str, power: Power) -> None:
        world, droplet = self._world, self._world.documents.get(key, "droplet")
        if droplet is None:
            return
        action = actions.pending(world, key)
        if action is not None:
            await self._carry_out(action, droplet)
        elif droplet.get("_destroyed"):
            await self._machines.destroy(int(key))
            with world.documents.transaction():
                droplets.forget(world, droplet)
        elif droplet["status"] == "active" and power in (Power.OFF, Power.ABSENT):
            droplets.note(world, key, status="off")
        elif droplet["status"] == "active" and power is not Power.RUNNING:
            await self._machines.start(int(key))
        else:
            await self._raise_wall(droplet)

    async def _carry_out(self, action: Document, droplet: Document) -> None:
        world, status = self._world, actions.COMPLETED
        await asyncio.sleep(world.settings.action_seconds)
        try:
            faults.spoil_action(world, action["type"])
            change = await self._do(action, droplet)
        except ActionFailed as failed:
            log.warning("%s of droplet %s failed: %s", action["type"], droplet["id"], failed)
            change, status = {}, actions.ERRORED
        with world.documents.transaction():
            droplets.note(world, droplet["id"], **change)
            actions.finish(world, action, status)

    async def _do(self, action: Document, droplet: Document) -> Document:
        """Do it to the machine; what is to be noted of the droplet. Doing it twice is as good as once."""
        machines, number = self._machines, int(droplet["id"])
        match action["type"]:
            case "create":
                return await self._make(droplet)
            case "rebuild":
                await machines.destroy(number)
                return await self._make(droplet | {"image": action["image"]})
            case "reboot":
                if not await machines.ask_to_stop(number, reboot=True):
                    raise ActionFailed("its system does not answer")
                await machines.start(number)
            case "power_cycle":
                await machines.kill(number)
                await machines.start(number)
            case "power_on":
                await machines.start(number)
            case "power_off":
                await machines.kill(number)
                return {"status": "off"}
            case "shutdown":
                if not await machines.ask_to_stop(number, reboot=False):
                    raise ActionFailed("its system does not answer")
                return {"status": "off"}
        return {"status": "active"}

    async def _make(self, droplet: Document) -> Document:
        wall = firewalls.wall_of(self._world, droplet)
        addresses = await self._machines.create(droplets.blueprint(self._world, droplet), wall)
        vpc = self._world.find("vpc", droplet["vpc"])
        self._world.documents.put(vpc | {"ip_range": addresses.private_range})
        # Stored before the machine starts: its metadata service is asked by this address.
        noted = {"image": droplet["image"], "networks": _networks(addresses), "_wall": firewalls.wall_mark(wall)}
        droplets.note(self._world, droplet["id"], **noted)
        await self._machines.start(int(droplet["id"]))
        return {"status": "active"}

    async def _raise_wall(self, droplet: Document) -> None:
        wall = firewalls.wall_of(self._world, droplet)
        await self._machines.shield(int(droplet["id"]), wall)
        droplets.note(self._world, droplet["id"], _wall=firewalls.wall_mark(wall))

    def _mark(self, droplet: Document) -> str:
        return firewalls.wall_mark(firewalls.wall_of(self._world, droplet))


def _networks(addresses: Addresses) -> list[Document]:
    private: Document = {"ip_address": addresses.private_ip, "netmask": addresses.private_netmask, "gateway": ""}
    public: Document = {"ip_address": addresses.public_ip, "netmask": addresses.public_netmask}
    public |= {"gateway": addresses.public_gateway, "type": "public"}
    return [private | {"type": "private"}, public]
