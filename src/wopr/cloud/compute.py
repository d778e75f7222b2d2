"""Machines that a cloud rents out, as the platform needs them: made, found again by name or tag, restarted, destroyed.

`Compute` is an edge of the world. Its real implementation speaks to DigitalOcean; on a laptop the same code speaks to
the cloud in a box. Every call may fail with `CloudError`, which says whether trying again makes sense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from wopr.core.errors import WoprError


class CloudError(WoprError):
    """The cloud refused or failed.

    `retry` says whether the same call may succeed later without anybody's help, `uncertain` whether the cloud may have
    done what was asked all the same: then only a look tells.
    """

    status: ClassVar[int] = 502
    default_code: ClassVar[str] = "cloud_failed"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        retry: bool = False,
        retry_after_seconds: float | None = None,
        uncertain: bool = False,
    ) -> None:
        super().__init__(message, remedy=remedy, retry_after_seconds=retry_after_seconds)
        self.retry = retry
        self.uncertain = uncertain


class MachineStatus(StrEnum):
    """DigitalOcean's words for a droplet's state. An archived one is gone for every purpose of ours."""

    NEW = "new"
    ACTIVE = "active"
    OFF = "off"
    ARCHIVE = "archive"


class Action(StrEnum):
    """What can be done to a machine that exists. A reboot is a request to its system; a power cycle asks nobody."""

    REBOOT = "reboot"
    POWER_CYCLE = "power_cycle"
    POWER_OFF = "power_off"
    POWER_ON = "power_on"
    REBUILD = "rebuild"


@dataclass(frozen=True)
class Machine:
    """One rented machine. Addresses are None until the cloud has given them."""

    id: str
    name: str
    status: MachineStatus
    region: str
    size: str
    public_ip: str | None
    private_ip: str | None
    tags: tuple[str, ...]
    created_at: int
    """Seconds since 1970."""


@dataclass(frozen=True)
class Size:
    """What can be rented: prices in cents and in nano-dollars an hour, memory in MiB, and where it is to be had."""

    slug: str
    description: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    gpu: str | None
    monthly_cents: int
    hourly_nanos: int
    regions: tuple[str, ...]
    gpu_model: str = ""
    """The cloud's own word for it, with its maker: `nvidia_h100`."""
    gpu_count: int = 0


@dataclass(frozen=True)
class Order:
    """A machine to be made. `name` is unique among ours: it is how a machine is found whose id was never learnt."""

    name: str
    region: str
    size: str
    image: str
    user_data: str
    tags: tuple[str, ...]
    ssh_keys: tuple[str, ...] = ()
    """Ids or fingerprints of keys that the account knows."""
    vpc: str | None = None


@dataclass(frozen=True)
class Account:
    """What the cloud allows us: how many machines at once, and its own word for the account's state."""

    machines_max: int
    status: str


@dataclass(frozen=True)
class Firewall:
    """What may reach the machines with `tag`: TCP `ports` (numbers or ranges such as `8080-8083`) from `sources`.

    Everything else is refused; the machines themselves may reach everything.
    """

    name: str
    tag: str
    ports: tuple[str, ...]
    sources: tuple[str, ...]
    """Networks in CIDR notation."""


class Compute(Protocol):
    """A cloud's machines."""

    async def create(self, order: Order) -> Machine:
        """Ask for a machine; it is NEW and has an id. Not idempotent: look for the name first."""

    async def get(self, machine_id: str) -> Machine | None:
        """The machine, or None when there is none of that id any more."""

    async def tagged(self, tag: str) -> Sequence[Machine]:
        """Every machine that carries the tag, oldest first, over all pages."""

    async def machines(self) -> Sequence[Machine]:
        """Every machine of the account, oldest first, ours or not."""

    async def act(self, machine_id: str, action: Action) -> str:
        """Begin an action; its id. CloudError when the machine is gone or another action is under way."""

    async def acted(self, machine_id: str, action_id: str) -> bool | None:
        """How an action went: True completed, False errored, None still in progress."""

    async def destroy(self, machine_id: str) -> bool:
        """Give the machine back; False when it was gone already."""

    async def sizes(self) -> Sequence[Size]:
        """Everything that can be rented."""

    async def account(self) -> Account:
        """What the account may have."""

    async def ensure_ssh_key(self, name: str, public_key: str) -> str:
        """The id of this public key at the cloud, which learns it when it did not know it."""

    async def ensure_firewall(self, firewall: Firewall) -> None:
        """See that the firewall of that name exists and says exactly this."""
