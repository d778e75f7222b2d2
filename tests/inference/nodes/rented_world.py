"""Nodes whose machines are rented from the cloud in a box: each boots its services, and breaks and heals as told.

The cloud is spoken to by the real client over HTTP; what boots in a machine are services on ports of this one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
from sqlalchemy import text
from tests.inference.first_boot import FirstBoot, Here, api_of, first_env
from tests.inference.nodes.conftest import FakeService, dropping

from wopr.cloud.compute import Action, MachineStatus, Order
from wopr.cloud.digitalocean import DigitalOcean
from wopr.cloud.ssh import SshFailed
from wopr.core.clock import Clock, ManualClock
from wopr.core.ids import NodeId
from wopr.core.platform import Platform
from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
from wopr.emulators.digitalocean.machines import Addresses, Blueprint
from wopr.emulators.digitalocean.world import World as CloudWorld
from wopr.inference.errands import Restarted
from wopr.inference.identity import ensure_identity
from wopr.inference.life import Life
from wopr.inference.nodes import Node, get, register
from wopr.inference.pager import Pager
from wopr.inference.provision_loop import Provisioner
from wopr.inference.repair_loop import Repairer
from wopr.inference.repair_state import Rung
from wopr.inference.watchdog import Watchdog

SERVICES = ("llama", "qwen")
BREAKS = "llama"
STEP_SECONDS = 2.0
REGION, SIZE = "tor1", "s-1vcpu-1gb"


@dataclass
class Machine:
    """What runs in one machine. `cure` is the mildest rung that helps, `deaf` that not even SSH answers."""

    services: dict[str, FakeService] = field(default_factory=lambda: {name: FakeService() for name in SERVICES})
    cure: Rung | None = None
    deaf: bool = False
    stays_up: bool = False  # what does not serve runs all the same, as a program does that loads its model
    boot_seconds: float = 0.0
    booting: bool = False
    boots: list[str] = field(default_factory=list)
    restarts: list[tuple[str, ...]] = field(default_factory=list)
    ends: str = "created"
    silence: ExitStack = field(default_factory=ExitStack)  # at its address, before it is up

    async def boot(self, first: FirstBoot | None = None) -> None:
        """Until the machine ends. At its first boot one that was ordered by the platform becomes a node."""
        self.boots.append(self.ends)
        self.booting = True
        if self.cure in (Rung.REBOOT, Rung.POWER_CYCLE):
            self.cure, self.deaf = None, False
        await asyncio.sleep(self.boot_seconds)
        self.booting = False
        self.silence.close()
        if first is not None:
            assert (await first.open()).is_success
            await first.report_stages()
        await self.start()
        if first is not None:
            await first.report("registering")
        try:
            await asyncio.Event().wait()
        finally:
            for service in self.services.values():
                await service.stop()

    async def start(self) -> None:
        """Start what does not run, but for what is broken."""
        for name, service in self.services.items():
            if not service.runner and (name != BREAKS or self.cure is None):
                await service.start()

    def hang(self, cure: Rung) -> None:
        """From now on a service answers /health and nothing else."""
        self.cure = cure
        self.services[BREAKS].works.clear()

    async def die(self, cure: Rung) -> None:
        """A service ends, and does not come back before this was done."""
        self.cure = cure
        await self.services[BREAKS].stop()

    async def heal(self) -> None:
        """Everything is as it should be."""
        self.cure, self.deaf = None, False
        self.services[BREAKS].works.set()
        await self.start()


class Machines(Here):
    """Simulated machines that can hang, so that only the plug helps."""

    machines: dict[int, Machine]

    async def ask_to_stop(self, droplet_id: int, reboot: bool) -> bool:
        machine = self.machines[droplet_id]
        if machine.cure is Rung.POWER_CYCLE:
            return False
        machine.ends = "reboot"
        return await super().ask_to_stop(droplet_id, reboot)

    async def kill(self, droplet_id: int) -> None:
        self.machines[droplet_id].ends = "power_cycle"
        await super().kill(droplet_id)


@dataclass
class World:
    """The platform, the cloud and the machines of one test."""

    platform: Platform
    clock: Clock
    cloud: DigitalOcean
    watchdog: Watchdog
    life: Life
    pager: Pager
    api: httpx.AsyncClient
    machines: dict[str, Machine] = field(default_factory=dict)
    acted: list[tuple[str, str]] = field(default_factory=list)
    repairer: Repairer = field(init=False)
    provisioner: Provisioner = field(init=False)

    def __post_init__(self) -> None:
        self.repairer = self.new_repairer()
        self.provisioner = Provisioner(self.platform, lambda: self.cloud, self.pager)

    def new_repairer(self) -> Repairer:
        """As another process, or this one after it was killed, would have it."""
        return Repairer(self.platform, self.life, lambda: self.cloud, self.restart, self.ended, self.pager)

    async def restart(self, node: Node, services: Sequence[str]) -> Restarted:
        machine = self.machines[node.id]
        if machine.deaf or not machine.services["qwen"].runner:
            raise SshFailed("no route to the machine", answered=False)
        machine.restarts.append(tuple(services))
        if machine.cure is Rung.RESTART:
            await machine.heal()
        return Restarted("ssh-ed25519 AAAA")

    async def ended(self, node: Node, _services: Sequence[str]) -> str:
        machine = self.machines[node.id]
        if machine.deaf or machine.booting:
            raise SshFailed("no route to the machine", answered=False)
        ended = not machine.services[BREAKS].runner and not machine.stays_up
        return f"{BREAKS} ended again after its start, with exit code 1" if ended else ""

    async def add(self, name: str = "gpu-1", provider: str | None = "digitalocean") -> Machine:
        """A node that serves."""
        async with self.platform.db.begin() as session:
            identity = await ensure_identity(session, self.platform.settings)
        self.machines[name] = Machine()
        order = Order(identity.machine_name(name), REGION, SIZE, "debian-12-x64", "", (identity.tag,))
        droplet = await self.cloud.create(order)
        await self.until_cloud(droplet.id, MachineStatus.ACTIVE)
        ports = {service: fake.port for service, fake in self.machines[name].services.items()}
        async with self.platform.db.begin() as session:
            await register(session, Node(NodeId(name), "127.0.0.1", region=REGION, size=SIZE, ports=ports))
            await session.execute(
                text("UPDATE gpu_nodes SET droplet_id = :droplet, provider = :provider WHERE id = :id"),
                {"droplet": droplet.id if provider else None, "provider": provider, "id": name},
            )
        await self.drive(4)
        assert (await self.node(name)).status == "active"
        return self.machines[name]

    async def until_cloud(self, machine_id: str, status: MachineStatus, *, up: bool = True) -> None:
        while (found := await self.cloud.get(machine_id)) is None or found.status is not status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        fakes = [fake for machine in self.machines.values() for fake in machine.services.values()]
        while up and not all(fake.runner and fake.port for fake in fakes):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def power_off(self, name: str) -> None:
        machine_id = (await self.node(name)).making.machine_id or ""
        await self.cloud.act(machine_id, Action.POWER_OFF)
        await self.until_cloud(machine_id, MachineStatus.OFF, up=False)

    async def vanish(self, name: str = "gpu-1") -> None:
        """Its machine is destroyed behind the platform's back; nothing answers there before the next one is up."""
        gone, machine_id = self.machines[name], (await self.node(name)).making.machine_id or ""
        await self.cloud.destroy(machine_id)
        while any(service.runner for service in gone.services.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        services = {key: FakeService(service.port) for key, service in gone.services.items()}
        self.machines[name] = coming = Machine(services, boot_seconds=gone.boot_seconds)
        for service in services.values():
            coming.silence.enter_context(dropping(service.port))

    async def node(self, name: str = "gpu-1") -> Node:
        async with self.platform.db.begin() as session:
            return await get(session, NodeId(name))

    async def drive(self, passes: int = 1) -> None:
        """So many passes of the watchdog and of the repairer, with the time between them."""
        for _ in range(passes):
            await self.watchdog.watch()
            await self.repairer.run_pass()
            if isinstance(self.clock, ManualClock):
                self.clock.advance(STEP_SECONDS)
            await asyncio.sleep(0.02)  # the machines of this process want their turn

    async def until_serves(self, name: str = "gpu-1", passes: int = 400) -> float:
        """Seconds until the ladder is done with the node."""
        began = self.clock.monotonic()
        for _ in range(passes):
            await self.drive()
            node = await self.node(name)
            if node.status == "active" and not node.repair.get("rung"):
                return self.clock.monotonic() - began
        raise AssertionError(f"{name} does not serve: {node.status} {node.repair} {node.last_error}")


@asynccontextmanager
async def rented_world(platform: Platform, clock: Clock, life: Life, watchdog: Watchdog) -> AsyncIterator[World]:
    """A cloud with nothing in it, and who looks after nodes."""
    machines: dict[int, Machine] = {}
    world: World

    async def guest(blueprint: Blueprint, _addresses: Addresses) -> None:
        name = next(name for name in world.machines if blueprint.name.endswith(f"-{name}"))
        machines[blueprint.droplet_id] = machine = world.machines[name]
        ordered = blueprint.user_data and machine.ends == "created"
        await machine.boot(FirstBoot(world.api, first_env(blueprint)) if ordered else None)

    def made(cloud: CloudWorld) -> Machines:
        simulated = Machines(cloud.documents, guest=guest)
        simulated.machines = machines
        return simulated

    app = build_digitalocean(DigitalOceanSettings(requests_per_minute=100_000, requests_per_hour=1_000_000), made)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http,
        httpx.AsyncClient(transport=httpx.ASGITransport(api_of(platform)), base_url="http://localhost") as api,
    ):
        world = World(
            platform, clock, DigitalOcean(http, "http://cloud", "token"), watchdog, life, Pager(platform), api
        )
        yield world
        await world.pager.close()
        for machine in world.machines.values():
            machine.silence.close()
