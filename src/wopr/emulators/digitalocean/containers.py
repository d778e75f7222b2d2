"""Real machines: each is a container that boots as a machine does, with systemd, cloud-init, sshd and its own engine.

What is to be known is in the engine (labels, networks, states) or in the store, never in this process alone.
"""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from wopr.emulators.digitalocean import boxes
from wopr.emulators.digitalocean.docker import DockerRefused, docker, ended, started
from wopr.emulators.digitalocean.errors import ActionFailed
from wopr.emulators.digitalocean.image import BASE_IMAGE, Stage, ensure_image
from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Power, Wall
from wopr.emulators.digitalocean.metadata import build_metadata
from wopr.emulators.digitalocean.resolver import Place, Resolver
from wopr.emulators.digitalocean.world import World
from wopr.emulators.serving import Beside

_PUBLIC_RANGES = "198.18.0.0/15"  # for tests of networks: nobody has addresses of it
_PUBLIC_PREFIX = 24
_PRIVATE_RANGES = "10.96.0.0/11"
_FIRST_HOST = 10
_RANGES_TRIED_MAX = 64
_OVERLAPS = "overlaps"
_SIGNALS = {True: "SIGRTMIN+5", False: "SIGRTMIN+4"}  # systemd reboots and switches off
_SWEPT_SECONDS_MAX = 120.0
_ASK_AGAIN_SECONDS = 3.0
_EVENTS_AGAIN_SECONDS = 1.0
_METADATA_PORT, _RESOLVER_PORT = "metadata_port", "resolver_port"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContainerSettings:
    """How machines are made. `boot_delay_seconds` passes before a machine's system begins, as firmware would take.

    Machines and their containers learn names of the account's domains from `zones`, the Cloudflare stand-in's name
    server, and others as the host does. `insecure_registries` are those that a machine's engine pulls from without TLS.
    `stage` tells of the steps in which their image is built. A system that is asked to end has `stop_seconds_max`.
    """

    base_image: str = BASE_IMAGE
    boot_delay_seconds: float = 0.0
    zones: Place | None = None
    stage: Stage = contextlib.nullcontext
    insecure_registries: tuple[str, ...] = ()
    stop_seconds_max: float = 60.0


class Containers:
    """The machines of one installation in the engine that the docker command reaches."""

    def __init__(self, world: World, settings: ContainerSettings | None = None) -> None:
        self._world = world
        self._settings = settings or ContainerSettings()
        self._names = boxes.Names(world.settings.installation)
        self._one_at_a_time = asyncio.Lock()  # while addresses are given out
        self._engine: boxes.Engine | None = None
        self._metadata: Beside | None = None
        self._resolver = Resolver(self._settings.zones)
        self._watching: asyncio.Task[None] | None = None

    async def open(self, when_changed: Callable[[], None]) -> None:
        image = await ensure_image(self._settings.base_image, self._settings.stage)
        raises = await _gives_sys_resource(self._names, image)
        self._engine = boxes.Engine(image, raises)
        gateway = (await _public_network(self._names)).gateway
        # At the ports that they had before: machines that run go on asking there.
        notes = self._world.documents
        self._metadata = Beside(build_metadata(self._world), gateway, int(notes.note(_METADATA_PORT, "0")))
        await self._metadata.start()
        notes.set_note(_METADATA_PORT, str(self._metadata.port))
        port = await self._resolver.start(gateway, int(notes.note(_RESOLVER_PORT, "0")))
        notes.set_note(_RESOLVER_PORT, str(port))
        self._watching = asyncio.create_task(self._watch(when_changed))

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._metadata is not None:
            await self._metadata.stop()
        await self._resolver.close()
        if not await self._all("ps", "--all", "--quiet"):
            await sweep(self._world.settings.installation)

    async def create(self, blueprint: Blueprint, wall: Wall) -> Addresses:
        assert self._engine is not None, "open() comes first"
        name = self._names.machine(blueprint.droplet_id)
        async with self._one_at_a_time:
            private = await self._private_network(blueprint)
            addresses = await self._addresses(blueprint, private)
            await docker("volume", "create", "--label", self._names.label, name)
            with _already("is already in use"):
                await docker(*boxes.create(self._names, blueprint, addresses, self._engine))
        with _already("already exists in network"):
            await docker(*boxes.connect(self._names, blueprint, addresses))
        daemon = boxes.daemon_file(self._settings.insecure_registries)
        await self._put(name, boxes.DAEMON_FOLDER, {"daemon.json": daemon})
        identity = {"droplet-id": str(blueprint.droplet_id), "wall": boxes.wall_rules(wall)}
        await self._put(name, boxes.MACHINE_FOLDER, identity)
        return addresses

    async def start(self, droplet_id: int) -> None:
        assert self._metadata is not None, "open() comes first"
        name = self._names.machine(droplet_id)
        told = {"metadata": self._metadata.address, "resolver": self._resolver.address}
        told |= {"boot-delay": str(self._settings.boot_delay_seconds)}
        await self._put(name, boxes.MACHINE_FOLDER, told)
        await docker("start", name)

    async def ask_to_stop(self, droplet_id: int, reboot: bool) -> bool:
        """A system that has only begun does not listen yet, so it is asked again and again."""
        name = self._names.machine(droplet_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stop_seconds_max):
                while True:
                    with _already("is not running"):
                        await docker("kill", "--signal", _SIGNALS[reboot], name)
                    with contextlib.suppress(TimeoutError):
                        await _wait_for_end(name, _ASK_AGAIN_SECONDS)
                        return True
        return False

    async def kill(self, droplet_id: int) -> None:
        name = self._names.machine(droplet_id)
        with _already("is not running"):
            await docker("kill", name)
        await _wait_for_end(name, self._settings.stop_seconds_max)

    async def destroy(self, droplet_id: int) -> None:
        name = self._names.machine(droplet_id)
        with _already("No such container"):
            await docker("rm", "--force", "--volumes", name)
        with _already("no such volume"):
            await docker("volume", "rm", "--force", name)

    async def shield(self, droplet_id: int, wall: Wall) -> None:
        name = self._names.machine(droplet_id)
        await self._put(name, boxes.MACHINE_FOLDER, {"wall": boxes.wall_rules(wall)})
        with _already("is not running"):
            await docker("exec", name, "nft", "-f", boxes.WALL_FILE)

    async def power(self) -> Mapping[int, Power]:
        form = '{{.Label "' + boxes.LABEL_DROPLET + '"}} {{.State}} {{.Status}}'
        lines = (await self._all("ps", "--all", "--format", form)).splitlines()
        found = (line.split(" ", 2) for line in lines)
        return {int(number): boxes.power_of(state, status) for number, state, status in found if number}

    async def _all(self, *command: str) -> str:
        return await docker(*command, "--filter", f"label={self._names.label}")

    async def _put(self, name: str, folder: str, files: Mapping[str, str]) -> None:
        await docker("cp", "-", f"{name}:{folder}", stdin=boxes.archive(files))

    async def _watch(self, when_changed: Callable[[], None]) -> None:
        """Tell of every machine that ends, as long as the engine tells us."""
        chosen = ("--filter", f"label={self._names.label}", "--filter", "event=die", "--format", "{{.Actor.ID}}")
        while True:
            process = await started("events", *chosen)
            try:
                assert process.stdout is not None, "it was started with a pipe"
                while await process.stdout.readline():
                    when_changed()
            finally:
                await ended(process)
            await asyncio.sleep(_EVENTS_AGAIN_SECONDS)

    async def _private_network(self, blueprint: Blueprint) -> "_Network":
        """In the range that the account knows; where somebody else on this host has it, in another."""
        wanted = ipaddress.IPv4Network(blueprint.vpc_range)
        others = ipaddress.IPv4Network(_PRIVATE_RANGES).subnets(new_prefix=max(wanted.prefixlen, 20))
        return await _network(self._names, self._names.private(blueprint.vpc), [wanted, *others], private=True)

    async def _addresses(self, blueprint: Blueprint, private: "_Network") -> Addresses:
        """Those of the machine that is there, else those that it had before, else the first free ones."""
        public = await _public_network(self._names)
        given = await self._given()
        mine = given.pop(blueprint.droplet_id, None) or blueprint.addresses or ("", "")
        taken = {address for pair in given.values() for address in pair} | self._reserved(blueprint.droplet_id)
        return Addresses(
            public_ip=mine[0] or public.free(taken),
            public_netmask=str(public.range.netmask),
            public_gateway=public.gateway,
            private_ip=mine[1] or private.free(taken),
            private_netmask=str(private.range.netmask),
            private_range=str(private.range),
        )

    async def _given(self) -> dict[int, tuple[str, str]]:
        wanted = (boxes.LABEL_DROPLET, boxes.LABEL_PUBLIC, boxes.LABEL_PRIVATE)
        form = " ".join('{{.Label "' + label + '"}}' for label in wanted)
        lines = (await self._all("ps", "--all", "--format", form)).splitlines()
        found = (line.split(" ") for line in lines if line.strip())
        return {int(number): (public, private) for number, public, private in found}

    def _reserved(self, droplet_id: int) -> set[str]:
        """Addresses of droplets that are being rebuilt, and have no container at the moment."""
        others = [droplet for droplet in self._world.every("droplet") if droplet["id"] != str(droplet_id)]
        return {network["ip_address"] for droplet in others for network in droplet["networks"] or []}


@dataclass(frozen=True)
class _Network:
    range: ipaddress.IPv4Network
    gateway: str

    def free(self, taken: set[str]) -> str:
        hosts = (str(self.range[number]) for number in range(_FIRST_HOST, self.range.num_addresses - 1))
        found = next((host for host in hosts if host not in taken), None)
        if found is None:
            raise ActionFailed(f"the network {self.range} has no free address")
        return found


async def public_gateway(installation: str) -> str:
    """This host's address in the public network of an installation's machines, which is made when there is none yet."""
    return (await _public_network(boxes.Names(installation))).gateway


async def _public_network(names: boxes.Names) -> "_Network":
    ranges = list(ipaddress.IPv4Network(_PUBLIC_RANGES).subnets(new_prefix=_PUBLIC_PREFIX))
    first = int(sha256(names.installation.encode()).hexdigest(), 16) % len(ranges)
    return await _network(names, names.public, ranges[first:] + ranges[:first], private=False)


async def _network(names: boxes.Names, name: str, ranges: list[ipaddress.IPv4Network], *, private: bool) -> "_Network":
    known = await _inspected(name)
    for one in ranges[:_RANGES_TRIED_MAX]:
        if known is not None:
            return known
        with _already(_OVERLAPS, "already exists"):
            await docker(*boxes.make_network(names, name, str(one), private=private))
        known = await _inspected(name)
    raise ActionFailed(f"no range is free for the network {name}")


async def sweep(installation: str) -> None:
    """Remove everything of an installation from the engine: machines, their disks, networks."""
    chosen = ("--filter", f"label={boxes.Names(installation).label}", "--quiet")
    deadline = asyncio.get_running_loop().time() + _SWEPT_SECONDS_MAX
    while found := (await docker("ps", "--all", *chosen)).split():
        if asyncio.get_running_loop().time() > deadline:
            raise DockerRefused(f"{len(found)} containers of {installation} can't be removed: docker ps --all")
        with _already("is already in progress", "No such container"):  # one that ends by itself, just now
            await docker("rm", "--force", "--volumes", *found)
    for kind in ("volume", "network"):
        for name in (await docker(kind, "ls", *chosen)).split():
            await docker(kind, "rm", name)


async def _gives_sys_resource(names: boxes.Names, image: str) -> bool:
    try:
        await docker("run", "--rm", "--label", names.label, "--cap-add", "SYS_RESOURCE", image, "true")
    except DockerRefused:
        return False
    return True


async def _inspected(network: str) -> _Network | None:
    form = "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}"
    try:
        ip_range, _, gateway = (await docker("network", "inspect", "--format", form, network)).strip().partition(" ")
    except DockerRefused:
        return None
    found = ipaddress.IPv4Network(ip_range)
    return _Network(found, gateway or str(found[1]))


async def _wait_for_end(name: str, seconds: float) -> None:
    """TimeoutError when it runs on."""
    async with asyncio.timeout(seconds):
        await docker("wait", name)


@contextlib.contextmanager
def _already(*texts: str) -> Iterator[None]:
    """Pass over a refusal that says that there is nothing to do."""
    try:
        yield
    except DockerRefused as refused:
        if not any(text.lower() in str(refused).lower() for text in texts):
            raise
