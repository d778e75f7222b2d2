"""The machines of a Swarm as its manager lists them: which may run bots, which has most room, why one can't. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any  # the engine's JSON

from wopr.fleet.runtimes.protocol import RuntimeFailed

# Given by the operator to a machine that shall run none: docker node update --label-add wopr.bots=no NODE
LABEL_BOTS = "wopr.bots"
READY, ACTIVE, DRAIN = "ready", "active", "drain"
NANO = 1_000_000_000
MIB = 2**20
# What a machine needs for itself and its engine.
OWN_MEMORY_BYTES = 256 * MIB
Json = Mapping[str, Any]


class NodeAway(RuntimeFailed):
    """The machine that has the bot's memory can't run it now; the bot waits for it and is started nowhere else."""

    default_code = "node_away"
    for_customers = "The machine with the bot's memory is away. The bot waits for it, and the operator was told."


class NoRoom(RuntimeFailed):
    """No machine has the memory that the bot needs."""

    default_code = "no_room"
    for_customers = "There is no room for the bot now. It is tried again by itself, and the operator was told."


@dataclass(frozen=True)
class Node:
    """A machine of the Swarm. `state` is ready, down, unknown or disconnected; `availability` the operator's wish."""

    id: str
    name: str
    address: str
    state: str
    availability: str
    manager: bool
    takes_bots: bool
    memory_bytes: int
    cpus: float

    @property
    def works(self) -> bool:
        """Whether bots of this machine can run now."""
        return self.state == READY and self.availability != DRAIN

    @property
    def open(self) -> bool:
        """Whether it takes bots that are new to it."""
        return self.state == READY and self.availability == ACTIVE and self.takes_bots


def node_of(listed: Json) -> Node:
    """A machine from an entry of the manager's list."""
    description, status = listed.get("Description") or {}, listed.get("Status") or {}
    spec, manager = listed.get("Spec") or {}, listed.get("ManagerStatus")
    resources = description.get("Resources") or {}
    address = str(status.get("Addr") or "")
    if manager and address in ("", "0.0.0.0", "127.0.0.1"):  # noqa: S104 - what a manager may say of itself
        address = str(manager.get("Addr") or "").rpartition(":")[0]
    return Node(
        id=str(listed["ID"]),
        name=str(description.get("Hostname") or listed["ID"]),
        address=address,
        state=str(status.get("State") or ""),
        availability=str(spec.get("Availability") or ""),
        manager=manager is not None,
        takes_bots=(spec.get("Labels") or {}).get(LABEL_BOTS) != "no",
        memory_bytes=int(resources.get("MemoryBytes") or 0),
        cpus=int(resources.get("NanoCPUs") or NANO) / NANO,
    )


def addresses(nodes: Iterable[Node], *, managers: bool = False) -> tuple[IPv4Address, ...]:
    """The machines' addresses, or only the managers'; in order, so that the same machines give the same rules."""
    found = set()
    for node in nodes:
        if node.manager or not managers:
            try:
                found.add(IPv4Address(node.address))
            except AddressValueError:
                continue
    return tuple(sorted(found))


def choose(nodes: Iterable[Node], promised: Mapping[str, int], memory_bytes: int) -> Node:
    """The machine with the most memory that is promised to no bot. Raises `NoRoom`."""

    def free(node: Node) -> int:
        return node.memory_bytes - OWN_MEMORY_BYTES - promised.get(node.id, 0)

    fitting = [node for node in nodes if node.open and free(node) >= memory_bytes]
    if not fitting:
        raise NoRoom(
            f"No machine of the Swarm has {memory_bytes // MIB} MiB left for this bot.",
            remedy="Add a machine (docker swarm join), or delete bots that nobody needs; see docker node ls.",
        )
    return max(fitting, key=lambda node: (free(node), node.id))


def why_away(node: Node | None) -> str:
    """Why bots whose memory is on this machine can't run now, for their customers; empty when they can.

    Machines' names are not for them. Operators read them in the incident, in `docker node ls` and in the logs.
    """
    if node is None:
        return "The machine that has its memory was removed from the Swarm. Its operator must bring it back."
    if node.state != READY:
        return "The machine that has its memory is lost. It waits, and runs again when that machine is back."
    if node.availability == DRAIN:
        return "The machine that has its memory is drained. It waits until that machine is active again."
    return ""


def require_works(node: Node | None) -> Node:
    """The machine, if bots on it can run. Raises `NodeAway`."""
    if node is None or not node.works:
        where = f"{node.name}: " if node else ""
        raise NodeAway(
            f"{where}{why_away(node)}", remedy="See docker node ls; docker node update --availability active NODE."
        )
    return node
