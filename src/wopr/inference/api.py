"""Routes of inference: the models on offer, and for administrators the nodes that serve them."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import Field

from wopr.accounts.guard import PlatformAdmin, Reader
from wopr.core.ids import NodeId
from wopr.core.money import from_cents, to_usd_string
from wopr.core.routing import ApiModel, PlatformDep
from wopr.inference import nodes as registry
from wopr.inference.offer import Offered, offered_models
from wopr.inference.watchdog import known_voices

router = APIRouter(tags=["inference"])
NodeName = Annotated[str, Path(min_length=1, max_length=registry.NAME_LENGTH_MAX)]


class ModelBody(ApiModel):
    """One model on offer. Prices that its kind does not have are null."""

    id: str
    kind: str
    available: bool
    aliases: list[str]
    prompt_per_million_usd: str | None
    completion_per_million_usd: str | None
    per_million_characters_usd: str | None
    per_minute_usd: str | None


class ModelsBody(ApiModel):
    """Every model, and the voices of those that speak."""

    models: list[ModelBody]
    voices: list[str]


class NodeBody(ApiModel):
    """One node, as an administrator sees it. `service_health` says of each service whether it answers."""

    id: str
    host: str
    region: str
    size: str
    status: str
    provision_stage: str
    service_health: dict[str, bool]
    last_health_at: datetime | None
    last_error: str | None
    monthly_cost_usd: str
    ports: dict[str, int]


class NodesBody(ApiModel):
    """Every node."""

    nodes: list[NodeBody]


class NewNode(ApiModel):
    """A machine that runs already and is to serve."""

    id: str = Field(min_length=1, max_length=registry.NAME_LENGTH_MAX)
    host: str = Field(min_length=1, max_length=registry.NAME_LENGTH_MAX)
    region: str = Field(default="local", min_length=1, max_length=registry.NAME_LENGTH_MAX)
    size: str = Field(default="cpu", min_length=1, max_length=registry.NAME_LENGTH_MAX)
    ports: dict[str, int] | None = None
    api_key: str | None = Field(default=None, max_length=512)


@router.get("/api/models", operation_id="models_list")
async def models(_principal: Reader, platform: PlatformDep) -> ModelsBody:
    """The models that nodes have listed, with their prices and whether they can be asked now."""
    async with platform.db.begin() as session:
        nodes = await registry.list_nodes(session)
    models = [_model_body(model) for model in offered_models(nodes, platform.settings.wopr_prices)]
    return ModelsBody(models=models, voices=known_voices(nodes))


@router.get("/api/admin/nodes", operation_id="nodes_list")
async def nodes(_principal: PlatformAdmin, platform: PlatformDep) -> NodesBody:
    """Every node with the health of its services."""
    async with platform.db.begin() as session:
        found = await registry.list_nodes(session)
    return NodesBody(nodes=[_node_body(node) for node in found])


@router.post("/api/admin/nodes", operation_id="nodes_register", status_code=201)
async def register(_principal: PlatformAdmin, platform: PlatformDep, body: NewNode) -> NodeBody:
    """Register a machine, or bring its row up to date."""
    node = registry.Node(
        id=NodeId(body.id),
        host=body.host,
        region=body.region,
        size=body.size,
        ports=body.ports or dict(registry.SERVICES),
        api_key=body.api_key,
    )
    async with platform.db.begin() as session:
        return _node_body(await registry.register(session, node))


@router.delete("/api/admin/nodes/{node_id}", operation_id="nodes_remove", status_code=204)
async def remove(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName) -> Response:
    """Forget a node; the machine itself is left alone."""
    async with platform.db.begin() as session:
        await registry.remove(session, NodeId(node_id))
    return Response(status_code=204)


def _model_body(model: Offered) -> ModelBody:
    price = model.price
    tokens = model.kind in ("chat", "embedding")
    return ModelBody(
        id=model.name,
        kind=model.kind,
        available=model.available,
        aliases=list(model.aliases),
        prompt_per_million_usd=to_usd_string(price.prompt) if tokens else None,
        completion_per_million_usd=to_usd_string(price.completion) if model.kind == "chat" else None,
        per_million_characters_usd=to_usd_string(price.unit) if model.kind == "speech" else None,
        per_minute_usd=to_usd_string(price.unit) if model.kind == "transcription" else None,
    )


def _node_body(node: registry.Node) -> NodeBody:
    return NodeBody(
        id=node.id,
        host=node.host,
        region=node.region,
        size=node.size,
        status=node.status,
        provision_stage=node.provision_stage,
        service_health=dict(node.service_health),
        last_health_at=None if node.last_health_at is None else datetime.fromtimestamp(node.last_health_at, UTC),
        last_error=node.last_error,
        monthly_cost_usd=to_usd_string(from_cents(node.monthly_cost_cents)),
        ports=dict(node.ports),
    )
