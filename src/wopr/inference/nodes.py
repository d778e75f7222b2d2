"""Nodes: which machines serve models, and which of their services are fit to be asked.

A node is a row; the watchdog keeps its health. Every change that matters to routing is announced on the channel
`wopr_nodes` by a trigger on the table, so that the runbook's SQL is seen as quickly as our own code.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.errors import Conflict, Invalid, NotFound
from wopr.core.ids import NodeId
from wopr.core.money import Nanos, from_cents
from wopr.inference.models import GpuNode

NODES_CHANNEL = "wopr_nodes"
SERVICES: Mapping[str, int] = {"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}
# A node in another state is not asked: it is being made, or nothing on it answers.
SERVING_STATES = ("active", "degraded")
SERVING, GONE = "serving", "gone"
NODES_MAX = 1000
NAME_LENGTH_MAX = 128
LABEL_LENGTH_MAX = 63  # between the dots of a name
# Names and addresses stand in URLs, logs and terminals. Colons and brackets are for IPv6.
WORD = re.compile(r"[A-Za-z0-9:\[][A-Za-z0-9._:\[\]-]*")
PORT_MAX = 65535
HOUR_SECONDS = 3600
MONTH_SECONDS = 30 * 24 * HOUR_SECONDS


@dataclass(frozen=True)
class Backend:
    """One service of one node, as the gateway needs it. `base_url` has neither path nor trailing slash.

    `wanted` is False while people or the ladder of repair keep new requests away from it: what runs there may end.
    """

    node_id: NodeId
    service: str
    base_url: str
    api_key: str | None = field(repr=False)
    healthy: bool
    wanted: bool = True

    @property
    def serves(self) -> bool:
        """Whether new requests are sent to it."""
        return self.healthy and self.wanted


@dataclass(frozen=True)
class Node:
    """A registered machine. Times are seconds since 1970; `ports` maps each service it has to its port."""

    id: NodeId
    host: str
    region: str = "local"
    size: str = "cpu"
    status: str = "active"
    provision_stage: str = "done"
    service_health: Mapping[str, bool] = field(default_factory=dict)
    monthly_cost_cents: int = 0
    ports: Mapping[str, int] = field(default_factory=lambda: dict(SERVICES))
    api_key: str | None = field(default=None, repr=False)
    last_health_at: int | None = None
    last_error: str | None = None
    created_at: int = 0
    updated_at: int = 0
    # What the watchdog remembers of each service, as JSON.
    probe_state: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # What people want of it: serving, cordoned, drained or gone.
    desired: str = SERVING
    # The cloud whose machine it is; None for one that was registered by hand.
    provider: str | None = None
    making: "Making" = field(default_factory=lambda: Making())
    # Where the ladder of repair stands, as JSON.
    repair: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Making:
    """How the making of a rented node went. `log` is every stage that was reached: stage, at, detail.

    `machine_at`: since when the machine costs `hourly_cost_nanos`; None while there is none.
    """

    machine_id: str | None = None
    machine_at: int | None = None
    hourly_cost_nanos: int = 0
    stage_at: int | None = None
    error: str | None = None
    log: Sequence[Mapping[str, Any]] = ()


async def register(session: AsyncSession, node: Node) -> Node:
    """Write a machine that runs already, or bring its row up to date; the same registration twice changes nothing.

    A new node counts as healthy nowhere until the watchdog has looked. Raises Invalid for an unusable name or port,
    Conflict for the name of a rented node, which registers itself.
    """
    check(node)
    if await session.scalar(select(GpuNode.provider).where(GpuNode.id == node.id)) is not None:
        raise Conflict(f"{node.id} is a rented node, which registers itself.", remedy="Choose another id.")
    values = {
        "host": node.host,
        "region": node.region,
        "size": node.size,
        "ports": dict(node.ports),
        "monthly_cost_cents": node.monthly_cost_cents,
        "provision_stage": "done",
    }
    if node.api_key is not None:
        values["api_key"] = node.api_key
    statement = insert(GpuNode).values(
        id=node.id,
        status="active",
        service_health=dict.fromkeys(node.ports, False) | dict(node.service_health),
        **values,
    )
    changed = [GpuNode.__table__.c[name].is_distinct_from(statement.excluded[name]) for name in values]
    statement = statement.on_conflict_do_update(
        index_elements=[GpuNode.id],
        set_={**{name: statement.excluded[name] for name in values}, "updated_at": _epoch_now()},
        where=or_(*changed),
    )
    await session.execute(statement)
    return await get(session, node.id)


async def get(session: AsyncSession, node_id: NodeId) -> Node:
    """The node of that id, or NotFound."""
    row = await session.get(GpuNode, node_id, populate_existing=True)
    if row is None:
        raise _unknown(node_id)
    return _node(row)


async def remove(session: AsyncSession, node_id: NodeId) -> Node:
    """Forget a node: nothing more is sent to it. The machine itself is left alone.

    NotFound when there is none; Conflict for a rented one, whose machine would cost on unseen.
    """
    statement = delete(GpuNode).where(GpuNode.id == node_id, GpuNode.provider.is_(None))
    row = await session.scalar(statement.returning(GpuNode))
    if row is None:
        await get(session, node_id)
        raise Conflict(
            f"The machine of {node_id} is rented and would go on costing.",
            remedy=f"Give it back: wopr nodes destroy {node_id}",
        )
    return _node(row)


async def list_nodes(session: AsyncSession) -> list[Node]:
    """Every node, by name; at most NODES_MAX."""
    rows = await session.scalars(
        select(GpuNode).order_by(GpuNode.id).limit(NODES_MAX).execution_options(populate_existing=True)
    )
    return [_node(row) for row in rows]


async def backends(session: AsyncSession) -> list[Backend]:
    """Every service of every node whose provisioning is done, fit or not, by node and service."""
    return [backend for node in await list_nodes(session) for backend in backends_of(node)]


async def healthy_backends(session: AsyncSession) -> list[Backend]:
    """The services that answered when the watchdog last looked, and that nobody keeps requests away from."""
    return [backend for backend in await backends(session) if backend.serves]


def backends_of(node: Node) -> Sequence[Backend]:
    """The services of one node; none while it is being provisioned or has no address."""
    return services_of(node) if node.provision_stage == "done" and node.host else []


def services_of(node: Node) -> Sequence[Backend]:
    """The services that one node has or is to have, however far its making came."""
    return [
        Backend(
            node_id=node.id,
            service=service,
            base_url=base_url(node.host, port),
            api_key=node.api_key,
            healthy=node.status in SERVING_STATES and bool(node.service_health.get(service)),
            wanted=node.desired == SERVING and not node.repair.get("out"),
        )
        for service, port in sorted(node.ports.items())
    ]


def check(node: Node) -> None:
    """Refuse what can't be a node: Invalid names the field and what to give instead."""
    for what, value in (("id", node.id), ("host", node.host), ("region", node.region), ("size", node.size)):
        if len(value) > NAME_LENGTH_MAX or not WORD.fullmatch(value):
            raise Invalid(
                f"{value!r} can't be a node's {what}.",
                remedy=f"Write the {what} with letters, digits, dots and hyphens, such as gpu-1 or 10.0.0.5.",
            )
    if not _is_address(node.host):
        raise Invalid(
            f"{node.host!r} is neither a name nor an address.",
            remedy="Write the host alone, such as gpu-1.example.com, 10.0.0.5 or fd00::5; ports are given apart.",
        )
    unknown = sorted(set(node.ports) - set(SERVICES))
    if unknown or not node.ports:
        raise Invalid(
            f"A node has no service named {unknown[0]}." if unknown else "A node needs at least one service.",
            remedy=f"Name some of: {', '.join(SERVICES)}.",
        )
    for service, port in node.ports.items():
        if not 0 < port <= PORT_MAX:
            raise Invalid(f"{port} is no port for {service}.", remedy="Give a port from 1 to 65535.")


def cost_so_far(node: Node, now: int) -> Nanos:
    """What the node's present machine has cost: by the hour, and in each month no more than its price of a month."""
    making = node.making
    if making.machine_at is None:
        return Nanos(0)
    months, seconds = divmod(max(0, now - making.machine_at), MONTH_SECONDS)
    monthly = from_cents(node.monthly_cost_cents)
    return Nanos(months * monthly + min(monthly, making.hourly_cost_nanos * seconds // HOUR_SECONDS))


def base_url(host: str, port: int) -> str:
    """The address of a service; a bare IPv6 address gets its brackets."""
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def _is_address(host: str) -> bool:
    """Whether it is a name, each of whose labels is as long as a label may be, or an address of either version."""
    if set(host) & set(":[]"):
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ipaddress.IPv6Address(host[1:-1] if bracketed else host)
        except ValueError:
            return False
        return True
    return all(0 < len(label) <= LABEL_LENGTH_MAX for label in host.removesuffix(".").split("."))


def _unknown(node_id: str) -> NotFound:
    return NotFound(f"There is no node {node_id}.", remedy="`wopr nodes list` shows those that there are.")


def _epoch_now() -> ColumnElement[int]:
    return func.floor(func.extract("epoch", func.now()))


def _node(row: GpuNode) -> Node:
    return Node(
        id=NodeId(row.id),
        host=row.host or "",
        region=row.region,
        size=row.size,
        status=row.status,
        provision_stage=row.provision_stage,
        service_health={name: bool(ok) for name, ok in row.service_health.items()},
        monthly_cost_cents=row.monthly_cost_cents,
        ports={name: int(port) for name, port in row.ports.items()},
        api_key=row.api_key,
        last_health_at=row.last_health_at,
        last_error=row.last_error,
        created_at=row.created_at,
        updated_at=row.updated_at,
        probe_state=row.probe_state,
        desired=row.desired,
        provider=row.provider,
        repair=row.repair,
        making=Making(
            machine_id=row.droplet_id,
            machine_at=row.machine_at,
            hourly_cost_nanos=row.hourly_cost_nanos,
            stage_at=row.stage_at,
            error=row.provision_error,
            log=tuple(row.provision_log),
        ),
    )
