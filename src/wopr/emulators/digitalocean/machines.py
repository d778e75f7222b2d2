"""What stands behind a droplet. `Machines` has two implementations: `simulated`, and real ones in `containers`.

Everything here may be done twice: the stand-in is killed between doing and noting, and does it again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True)
class Blueprint:
    """A machine to be made. `vpc_range` is the range that its private network should have, `addresses` are the public
    and the private one that it had before, to be kept."""

    droplet_id: int
    name: str
    region: str
    image: str
    memory_mib: int
    vcpus: int
    user_data: str
    public_keys: tuple[str, ...]
    vpc: str
    vpc_range: str
    addresses: tuple[str, str] | None = None


@dataclass(frozen=True)
class Addresses:
    """Where a machine is reached, each with its network's mask and gateway."""

    public_ip: str
    public_netmask: str
    public_gateway: str
    private_ip: str
    private_netmask: str
    private_range: str


class Power(StrEnum):
    """What a machine is seen to be."""

    RUNNING = "running"
    REBOOTING = "rebooting"  # its system ended in order to begin again
    OFF = "off"  # its system switched it off
    DEAD = "dead"  # it ended in no order: killed, or the host went down
    ABSENT = "absent"


@dataclass(frozen=True)
class Opening:
    """One thing that a firewall lets pass: a protocol (tcp, udp or icmp), ports from and to, and with whom."""

    protocol: str
    first_port: int
    last_port: int
    peers: tuple[str, ...]
    """Addresses or ranges: sources of what comes in, destinations of what goes out."""


@dataclass(frozen=True)
class Wall:
    """What comes into a machine and goes out of it: None stands for everything, an empty list for nothing."""

    inward: tuple[Opening, ...] | None = None
    outward: tuple[Opening, ...] | None = None


class Machines(Protocol):
    """Machines of one installation."""

    async def open(self, when_changed: Callable[[], None]) -> None:
        """Get ready; `when_changed` is called whenever a machine ended or began by itself."""

    async def close(self) -> None:
        """Let go of everything but the machines, which go on."""

    async def create(self, blueprint: Blueprint, wall: Wall) -> Addresses:
        """Make a machine with an empty disk, or find the one that was made; it is off. ActionFailed when impossible."""

    async def start(self, droplet_id: int) -> None:
        """Switch on; nothing to do for one that runs."""

    async def ask_to_stop(self, droplet_id: int, reboot: bool) -> bool:
        """Ask its system to end, and wait a while; False when it does not."""

    async def kill(self, droplet_id: int) -> None:
        """Pull the plug."""

    async def destroy(self, droplet_id: int) -> None:
        """Remove machine and disk; nothing to do for one that is gone."""

    async def shield(self, droplet_id: int, wall: Wall) -> None:
        """Let pass what the wall lets pass and nothing else, now and after each start."""

    async def power(self) -> Mapping[int, Power]:
        """Every machine that there is."""


Guest = Callable[[Blueprint, Addresses], Awaitable[None]]
"""What runs in a simulated machine at each boot: cloud-init's part, written by a test."""
