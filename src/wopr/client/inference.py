"""Inference over HTTP: the models on offer and the machines that run them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import ConfigDict, Field

from wopr.client.transport import Answer, Sending, Transport


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
    monthly_cost_usd: Decimal | None = None
    ports: dict[str, int] | None = None
    rented: bool = False
    desired: str = "serving"
    running: int | None = None
    drained: bool = False
    repair: str = ""


class Nodes(Answer):
    """All machines."""

    nodes: list[Node]


class InferenceApi:
    """Routes /api/models and /api/admin/nodes."""

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
