"""Inference over HTTP: the models on offer and the machines that run them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from pydantic import ConfigDict, Field

from wopr.client.transport import Answer, Json, ModelT, Sending, Transport, parse

# Longer than the API tries, so that why a machine does not answer is told by the API.
LOGS_TIMEOUT_SECONDS = 40.0


class Model(Answer):
    """A model on offer; price fields are kept as the API sends them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    kind: str = "chat"
    available: bool = True


class Models(Answer):
    """All models, and the names of the voices that speak."""

    models: list[Model]
    voices: list[str] = Field(default_factory=list)


class Node(Answer):
    """A machine with inference services."""

    id: str
    host: str
    region: str | None = None
    size: str | None = None
    status: str = ""
    provision_stage: str | None = None
    service_health: dict[str, Any] | None = None  # Any: a boolean, or details, per service
    last_health_at: datetime | None = None
    last_error: str | None = None
    monthly_cost_usd: Decimal | None = None
    ports: dict[str, int] | None = None
    rented: bool = False
    desired: str = "serving"
    running: int | None = None
    drained: bool = False
    repair: str = ""
    machine_id: str | None = None
    stage_at: datetime | None = None
    provision_error: str | None = None
    hourly_cost_usd: Decimal = Decimal(0)
    cost_so_far_usd: Decimal = Decimal(0)

    @property
    def in_making(self) -> bool:
        """Whether its machine is on the way to serving or back to the cloud."""
        return self.rented and (self.desired == "gone" or self.provision_stage not in ("done", "failed"))


class StageReached(Answer):
    """A stage that the making of a node reached."""

    stage: str
    at: datetime
    detail: str = ""


class NodeDetail(Node):
    """One machine with the course of its making."""

    log: list[StageReached] = Field(default_factory=list)


class NodeLogs(Answer):
    """What was written on a machine, oldest first."""

    lines: list[str] = Field(default_factory=list)


class MachineSize(Answer):
    """Something that can be rented."""

    slug: str
    description: str = ""
    gpu: str | None = None
    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0
    hourly_usd: Decimal
    monthly_usd: Decimal
    regions: list[str] = Field(default_factory=list)


class MachineSizes(Answer):
    """What can be rented, the cheapest first, and what is meant where nothing is said."""

    sizes: list[MachineSize]
    default_size: str = ""
    default_region: str = ""


class Restarted(Answer):
    """The cloud's id of a restart that goes on by itself."""

    action_id: str


class Nodes(Answer):
    """All machines."""

    nodes: list[Node]


class InferenceApi:
    """Routes /api/models, /api/admin/nodes and /api/admin/node-sizes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def models(self) -> list[Model]:
        """The models on offer, with kind and availability."""
        return (await self.offer()).models

    async def offer(self) -> Models:
        """The models with the voices."""
        return await self._transport.get("/api/models", Models)

    async def nodes(self) -> list[Node]:
        """The machines with their health, for administrators."""
        return (await self._transport.get("/api/admin/nodes", Nodes)).nodes

    async def register_node(
        self,
        node_id: str,
        host: str,
        *,
        region: str | None = None,
        size: str | None = None,
        ports: dict[str, int] | None = None,
    ) -> None:
        """Add a machine or change its address."""
        optional = {"region": region, "size": size, "ports": ports}
        body = {"id": node_id, "host": host} | {name: value for name, value in optional.items() if value is not None}
        await self._transport.request("POST", "/api/admin/nodes", Sending(json=body))

    async def want_node(self, node_id: str, desired: str) -> None:
        """Have a node `serving`, `cordoned` (no new requests) or `drained` (and none that run)."""
        await self._transport.request("POST", f"/api/admin/nodes/{node_id}/desired", Sending(json={"desired": desired}))

    async def repair_node(self, node_id: str, rung: str) -> None:
        """Restart its services, reboot or power-cycle its machine, or replace that, now."""
        await self._transport.request("POST", f"/api/admin/nodes/{node_id}/repair", Sending(json={"rung": rung}))

    async def remove_node(self, node_id: str) -> None:
        """Take a machine out of routing and forget it."""
        await self._transport.request("DELETE", f"/api/admin/nodes/{node_id}")

    async def node(self, node_id: str) -> NodeDetail:
        """One machine with the course of its making."""
        return await self._transport.get(f"/api/admin/nodes/{quote(node_id, safe='')}", NodeDetail)

    async def node_logs(self, node_id: str, source: str, lines: int) -> list[str]:
        """The last lines of a service, or of its machine's `making`, oldest first."""
        sending = Sending(params={"source": source, "lines": lines}, timeout_seconds=LOGS_TIMEOUT_SECONDS)
        path = f"/api/admin/nodes/{quote(node_id, safe='')}/logs"
        return parse(await self._transport.request("GET", path, sending), NodeLogs).lines

    async def sizes(self, *, gpu: bool = False) -> MachineSizes:
        """What can be rented, with prices; `gpu`: only what has one."""
        params = {"gpu": "true" if gpu else None}
        return await self._transport.get("/api/admin/node-sizes", MachineSizes, **params)

    async def provision_nodes(
        self, *, region: str = "", size: str = "", count: int = 1, once: str | None = None
    ) -> list[Node]:
        """Rent machines and make nodes of them; empty words mean the settings'. `once`: see `Transport.post`."""
        body = {"region": region, "size": size, "count": count}
        return (await self._transport.post("/api/admin/nodes/provision", Nodes, body, once=once)).nodes

    async def destroy_node(self, node_id: str) -> NodeDetail:
        """Give a rented node back."""
        return await self._act(node_id, "destroy", NodeDetail)

    async def retry_node(self, node_id: str) -> NodeDetail:
        """Make a rented node again with a new machine."""
        return await self._act(node_id, "retry", NodeDetail)

    async def reboot_node(self, node_id: str, *, hard: bool = False) -> str:
        """Restart a rented machine; the cloud's id of the restart."""
        return (await self._act(node_id, "reboot", Restarted, {"hard": hard})).action_id

    async def _act(self, node_id: str, verb: str, model: type[ModelT], body: Json | None = None) -> ModelT:
        return await self._transport.post(f"/api/admin/nodes/{quote(node_id, safe='')}/{verb}", model, body)
