"""Machines that are entries in the store: as quick as wanted, and as lasting as real ones when the stand-in is killed.

`guest` is what a machine would run at each boot (a real one runs cloud-init); without one it posts nothing to anybody.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Guest, Power, Wall
from wopr.emulators.documents import Document, Documents, Query

_KIND = "_machine"
_PUBLIC_RANGE = ipaddress.ip_network("198.18.0.0/16")
_FIRST_HOST = 10


class Simulated:
    """Machines without any machine. `boot_seconds` is how long one takes to start and to end."""

    def __init__(self, documents: Documents, boot_seconds: float = 0.0, guest: Guest | None = None) -> None:
        self._documents = documents
        self._boot_seconds = boot_seconds
        self._guest = guest
        self._booting: dict[int, asyncio.Task[None]] = {}

    async def open(self, when_changed: Callable[[], None]) -> None:
        """Machines that ran before the stand-in was killed run on; their guests do not begin again."""

    async def close(self) -> None:
        for droplet_id in list(self._booting):
            await self._end_guest(droplet_id)

    async def create(self, blueprint: Blueprint, wall: Wall) -> Addresses:
        known = self._documents.get(_id(blueprint.droplet_id), _KIND)
        if known is not None:
            return Addresses(**known["addresses"])
        host = self._free_host()
        private = ipaddress.ip_network(blueprint.vpc_range)
        addresses = Addresses(
            public_ip=str(_PUBLIC_RANGE[host]),
            public_netmask=str(_PUBLIC_RANGE.netmask),
            public_gateway=str(_PUBLIC_RANGE[1]),
            private_ip=str(private[host % (private.num_addresses - _FIRST_HOST)]),
            private_netmask=str(private.netmask),
            private_range=str(private),
        )
        machine: Document = {"id": _id(blueprint.droplet_id), "object": _KIND, "power": Power.OFF, "host": host}
        machine |= {"droplet": blueprint.droplet_id, "addresses": asdict(addresses), "wall": asdict(wall)}
        self._documents.put(machine | {"blueprint": asdict(blueprint)})
        return addresses

    async def start(self, droplet_id: int) -> None:
        machine = self._documents.get(_id(droplet_id), _KIND)
        if machine is None or machine["power"] == Power.RUNNING:
            return
        await asyncio.sleep(self._boot_seconds)
        self._note(droplet_id, Power.RUNNING)
        if self._guest is not None:
            described = machine["blueprint"] | {"public_keys": tuple(machine["blueprint"]["public_keys"])}
            running = self._guest(Blueprint(**described), Addresses(**machine["addresses"]))
            self._booting[droplet_id] = asyncio.ensure_future(running)

    async def ask_to_stop(self, droplet_id: int, reboot: bool) -> bool:
        await self._end(droplet_id, Power.REBOOTING if reboot else Power.OFF)
        return True

    async def kill(self, droplet_id: int) -> None:
        await self._end(droplet_id, Power.OFF)

    async def destroy(self, droplet_id: int) -> None:
        await self._end_guest(droplet_id)
        self._documents.remove(_id(droplet_id))

    async def shield(self, droplet_id: int, wall: Wall) -> None:
        machine = self._documents.get(_id(droplet_id), _KIND)
        if machine is not None:
            self._documents.put(machine | {"wall": asdict(wall)})

    async def power(self) -> Mapping[int, Power]:
        return {machine["droplet"]: Power(machine["power"]) for machine in self._machines()}

    async def _end(self, droplet_id: int, power: Power) -> None:
        await self._end_guest(droplet_id)
        await asyncio.sleep(self._boot_seconds)
        self._note(droplet_id, power)

    async def _end_guest(self, droplet_id: int) -> None:
        running = self._booting.pop(droplet_id, None)
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def _note(self, droplet_id: int, power: Power) -> None:
        machine = self._documents.get(_id(droplet_id), _KIND)
        if machine is not None:
            self._documents.put(machine | {"power": power})

    def _machines(self) -> list[Document]:
        return self._documents.select(Query(_KIND, limit=100_000))

    def _free_host(self) -> int:
        taken = {machine["host"] for machine in self._machines()}
        return next(host for host in range(_FIRST_HOST, _PUBLIC_RANGE.num_addresses) if host not in taken)


def _id(droplet_id: int) -> str:
    return f"machine/{droplet_id}"
