"""The machine on which an installation stands, rented: found by its name or made, with Docker on it, behind a firewall.

Nothing is remembered here: the name is how a machine is found that an earlier run made, so a run that was killed at any
point is finished by the next. The machine is not a node, and carries none of the tags by which nodes are cleared away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from wopr.cloud.compute import CloudError, Compute, Firewall, Machine, MachineStatus, Order, Size
from wopr.core.errors import Invalid

TAG = "wopr-platform"
IMAGE = "debian-12-x64"
REGION, SIZE = "tor1", "s-2vcpu-4gb"
SSH_PORT = 22
OPEN_PORTS = ("22", "80", "443")
EVERYBODY = ("0.0.0.0/0", "::/0")
LOOK_SECONDS = 3.0
ACTIVE_SECONDS_MAX = 600.0
CONNECT_SECONDS = 5.0
# Only what step 1 of the handbook does by hand. No secret: whoever is on the machine can read it while it lives.
USER_DATA = """\
#cloud-config
package_update: true
packages: [docker.io, docker-compose, ca-certificates]
runcmd:
  - [systemctl, enable, --now, docker]
"""

Tell = Callable[[str, str], None]
Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Wish:
    """What is wanted. `public_key` is the operator's: with it they reach the machine, and nobody else does."""

    name: str
    region: str
    size: str
    public_key: str

    def order(self, key_id: str) -> Order:
        return Order(self.name, self.region, self.size, IMAGE, USER_DATA, (TAG,), (key_id,))

    def firewall(self) -> Firewall:
        return Firewall(TAG, TAG, OPEN_PORTS, EVERYBODY)


@dataclass(frozen=True)
class Proposal:
    """What a run would do: `there` is the machine that is there already, `size` what another would be."""

    there: Machine | None
    size: Size | None


async def propose(cloud: Compute, wish: Wish) -> Proposal:
    """What there is; reads only. Invalid when such a machine can't be rented there."""
    there = await found(cloud, wish.name)
    if there is not None:
        return Proposal(there, None)
    sizes = await cloud.sizes()
    size = next((size for size in sizes if size.slug == wish.size), None)
    if size is None:
        raise Invalid(f"There is no size {wish.size}.", remedy="wopr nodes sizes  lists what can be rented.")
    if wish.region not in size.regions:
        where = ", ".join(size.regions) or "nowhere now"
        raise Invalid(f"{wish.size} is not to be had in {wish.region}.", remedy=f"--region, one of: {where}")
    return Proposal(None, size)


async def found(cloud: Compute, name: str) -> Machine | None:
    """Our machine of that name. CloudError when there are several, since nobody can say which is meant."""
    named = [machine for machine in await cloud.tagged(TAG) if machine.name == name]
    if len(named) > 1:
        ids = ", ".join(machine.id for machine in named)
        raise CloudError(f"{len(named)} machines are called {name}: {ids}.", remedy="Rename or destroy all but one.")
    return named[0] if named else None


async def provision(cloud: Compute, wish: Wish, tell: Tell, pause: Pause = asyncio.sleep) -> Machine:
    """The machine, active and with an address, behind its firewall; made when there was none."""
    machine = await found(cloud, wish.name)
    if machine is None:
        key_id = await cloud.ensure_ssh_key(f"{wish.name} {wish.public_key.split()[-1]}"[:100], wish.public_key)
        machine = await cloud.create(wish.order(key_id))
        tell("ordered", f"{wish.name} is machine {machine.id}")
    await cloud.ensure_firewall(wish.firewall())
    tell("firewall", f"TCP {', '.join(OPEN_PORTS)} from everywhere, nothing else")
    machine = await _active(cloud, machine, pause)
    tell("active", f"{wish.name} has {machine.public_ip}")
    return machine


async def reachable(address: str, seconds: float, pause: Pause = asyncio.sleep) -> bool:
    """Whether something answers at the port of SSH within that time; a machine that boots takes half a minute."""
    clock = asyncio.get_running_loop()
    end = clock.time() + seconds
    while clock.time() < end:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(address, SSH_PORT)
        except (OSError, TimeoutError):
            await pause(LOOK_SECONDS)
            continue
        writer.close()
        return True
    return False


async def _active(cloud: Compute, machine: Machine, pause: Pause) -> Machine:
    """The machine once it runs and has an address."""
    for _ in range(int(ACTIVE_SECONDS_MAX / LOOK_SECONDS)):
        if machine.status is MachineStatus.ACTIVE and machine.public_ip:
            return machine
        if machine.status is MachineStatus.OFF:
            raise CloudError(f"{machine.name} is switched off.", remedy="Switch it on in the cloud's console.")
        await pause(LOOK_SECONDS)
        seen = await cloud.get(machine.id)
        if seen is None:
            raise CloudError(f"{machine.name} is gone while it was awaited.", remedy="Run it again.")
        machine = seen
    raise CloudError(
        f"{machine.name} is not active after {ACTIVE_SECONDS_MAX:.0f} s.", remedy="Run it again to wait on."
    )


def public_key_of(lines: Sequence[str]) -> str:
    """The first public key of a file; Invalid when it holds none, above all when it is a private one."""
    for line in lines:
        if line.startswith(("ssh-", "ecdsa-", "sk-")) and len(line.split()) >= 2:
            return line.strip()
    raise Invalid(
        "That file holds no public SSH key.", remedy="ssh-keygen -t ed25519, then --ssh-key ~/.ssh/id_ed25519.pub"
    )
