"""Routes of inference: models on offer, nodes for administrators, and what rented machines ask and tell."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.guard import Once, PlatformAdmin, Reader
from wopr.cloud.compute import Compute
from wopr.cloud.digitalocean import digitalocean
from wopr.core.errors import Unauthenticated
from wopr.core.ids import NodeId
from wopr.core.platform import Platform
from wopr.core.routing import PlatformDep
from wopr.inference import bootstrap, care, errands, ordering, rebooting, rented
from wopr.inference import nodes as registry
from wopr.inference.bodies import (
    ModelsBody,
    NewNode,
    NewNodes,
    NodeBody,
    NodeDetail,
    NodeLogsBody,
    NodesBody,
    OpenedBody,
    Reboot,
    RebootBody,
    RepairNow,
    Report,
    ReportedBody,
    SizesBody,
    Wish,
    model_body,
    node_body,
    node_detail,
    size_body,
)
from wopr.inference.journaling import journaled
from wopr.inference.log_sources import LINES, LINES_MAX, Source
from wopr.inference.offer import offered_models
from wopr.inference.provision import Stage
from wopr.inference.rebooting import Desk
from wopr.inference.repair_state import Rung
from wopr.inference.watchdog import known_voices
from wopr.ops.journal import Journal

router = APIRouter(tags=["inference"])
NodeName = Annotated[str, Path(min_length=1, max_length=registry.NAME_LENGTH_MAX)]
_bearer = HTTPBearer(auto_error=False, scheme_name="node", description="A machine's token, or its node's secret.")
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
SharedFor = Annotated[str, Query(max_length=registry.NAME_LENGTH_MAX, description="With GPU_NODE_SECRET: which node.")]


async def shown(bearer: BearerDep) -> str:
    """What the caller shows; Unauthenticated for one who shows nothing."""
    if bearer is None or not bearer.credentials:
        raise Unauthenticated("No token and no secret was shown.", remedy="Send `Authorization: Bearer …`.")
    return bearer.credentials


Shown = Annotated[str, Depends(shown)]


async def reporter(platform: PlatformDep, secret: Shown, node_id: SharedFor = "") -> NodeId:
    """The node that reports: by its own secret, or by GPU_NODE_SECRET with its id. Unauthenticated for others."""
    if _is_shared(platform, secret):
        known = NodeId(node_id) if node_id else None
    else:
        async with platform.db.begin() as session:
            known = await rented.node_of_secret(session, secret)
    if known is None or (node_id and known != node_id):
        raise Unauthenticated(
            "This secret is no node's.", remedy="Send the node's own, or GPU_NODE_SECRET with ?node_id=."
        )
    return known


Reporter = Annotated[NodeId, Depends(reporter)]


@router.get("/api/models", operation_id="models_list")
async def models(_principal: Reader, platform: PlatformDep) -> ModelsBody:
    """The models that nodes have listed, with their prices and whether they can be asked now."""
    async with platform.db.begin() as session:
        nodes = await registry.list_nodes(session)
    models = [model_body(model) for model in offered_models(nodes, platform.settings.wopr_prices)]
    return ModelsBody(models=models, voices=known_voices(nodes))


@router.get("/api/admin/nodes", operation_id="nodes_list")
async def nodes(_principal: PlatformAdmin, platform: PlatformDep) -> NodesBody:
    """Every node with the health of its services, how far its making is, and what it costs."""
    async with platform.db.begin() as session:
        found = await registry.list_nodes(session)
    now = platform.clock.now()
    return NodesBody(nodes=[node_body(node, now) for node in found])


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
        return node_body(await registry.register(session, node), platform.clock.now())


@router.post("/api/admin/nodes/provision", operation_id="nodes_provision", status_code=202)
async def provision(_principal: PlatformAdmin, platform: PlatformDep, body: NewNodes, once: Once) -> NodesBody:
    """Rent machines and make nodes of them, which goes on by itself: `provision_stage` tells how far it is."""
    plan = await ordering.plan(
        _cloud(platform), platform.settings, region=body.region, size=body.size, count=body.count
    )

    async def order(session: AsyncSession) -> NodesBody:
        about = {"nodes": ", ".join(plan.node_ids), "size": plan.size.slug, "region": plan.region}
        async with journaled(platform, "nodes.provision", **about):
            await rented.add(
                session, plan.node_ids, plan.terms, platform.settings.gpu_nodes_max, await platform.steady.epoch()
            )
        made = [await registry.get(session, NodeId(node_id)) for node_id in plan.node_ids]
        return NodesBody(nodes=[node_body(node, platform.clock.now()) for node in made])

    return await once.in_transaction(NodesBody, order)


@router.get("/api/admin/node-sizes", operation_id="nodes_sizes")
async def sizes(_principal: PlatformAdmin, platform: PlatformDep, gpu: bool = False) -> SizesBody:
    """What can be rented, with prices; `gpu`: only what has one."""
    found = await ordering.rentable(_cloud(platform), gpu_only=gpu)
    settings = platform.settings
    return SizesBody(
        sizes=[size_body(size) for size in found],
        default_size=settings.gpu_size,
        default_region=settings.gpu_region,
    )


@router.get("/api/admin/nodes/{node_id}", operation_id="nodes_get")
async def node(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName) -> NodeDetail:
    """One node with the course of its making."""
    return await _detail(platform, node_id)


@router.get("/api/admin/nodes/{node_id}/logs", operation_id="nodes_logs")
async def logs(
    _principal: PlatformAdmin,
    platform: PlatformDep,
    node_id: NodeName,
    source: Annotated[Source, Query(description="A service, or how the machine was made a node.")] = Source.MAKING,
    lines: Annotated[int, Query(ge=1, le=LINES_MAX, description="How many, from the end.")] = LINES,
) -> NodeLogsBody:
    """The last lines that a service of a node wrote, or that its making told, read on the machine over SSH."""
    async with platform.db.begin() as session:
        node = await registry.get(session, NodeId(node_id))
    return NodeLogsBody(node=node.id, source=source, lines=list(await errands.logs(platform, node, source, lines)))


@router.post("/api/admin/nodes/{node_id}/destroy", operation_id="nodes_destroy", status_code=202)
async def destroy(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName) -> NodeDetail:
    """Give a rented node back. Its row goes when the cloud says that the machine is gone."""
    async with journaled(platform, "nodes.destroy", node=node_id), platform.db.begin() as session:
        await rented.give_back(session, node_id, await platform.steady.epoch())
    return await _detail(platform, node_id)


@router.post("/api/admin/nodes/{node_id}/retry", operation_id="nodes_retry", status_code=202)
async def retry(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName) -> NodeDetail:
    """Make a node again with a new machine; the one before is given back first."""
    async with journaled(platform, "nodes.retry", node=node_id), platform.db.begin() as session:
        await rented.begin_anew(session, node_id, await platform.steady.epoch())
    return await _detail(platform, node_id)


@router.post("/api/admin/nodes/{node_id}/reboot", operation_id="nodes_reboot", status_code=202)
async def reboot(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName, body: Reboot) -> RebootBody:
    """Restart a rented machine, at once: what it is answering is cut off. It serves again after three good looks."""
    desk = Desk(platform.db, _cloud(platform), Journal(platform.settings.wopr_home))
    return RebootBody(action_id=await rebooting.reboot(desk, node_id, await platform.steady.epoch(), hard=body.hard))


@router.post("/api/admin/nodes/{node_id}/desired", operation_id="nodes_want")
async def want(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName, body: Wish) -> NodeDetail:
    """Keep new requests away from a node (cordoned), wait until none runs either (drained), or have it back."""
    about = {"node": node_id, "desired": body.desired}
    async with journaled(platform, "nodes.want", **about), platform.db.begin() as session:
        await care.want(session, NodeId(node_id), body.desired)
    return await _detail(platform, node_id)


@router.post("/api/admin/nodes/{node_id}/repair", operation_id="nodes_repair", status_code=202)
async def repair(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName, body: RepairNow) -> NodeDetail:
    """Restart a node's services, or its machine, or replace that: what runs there may end first."""
    about = {"node": node_id, "rung": body.rung}
    async with journaled(platform, "nodes.repair", **about), platform.db.begin() as session:
        await care.ask_repair(session, NodeId(node_id), Rung(body.rung))
    return await _detail(platform, node_id)


@router.delete("/api/admin/nodes/{node_id}", operation_id="nodes_remove", status_code=204)
async def remove(_principal: PlatformAdmin, platform: PlatformDep, node_id: NodeName) -> Response:
    """Forget a node that was registered by hand; the machine itself is left alone."""
    async with platform.db.begin() as session:
        await registry.remove(session, NodeId(node_id))
    return Response(status_code=204)


@router.post("/internal/gpu/bootstrap", operation_id="nodes_bootstrap")
async def open_(platform: PlatformDep, token: Shown) -> OpenedBody:
    """What a rented machine needs to become a node, for the token in its user data, until it first reports."""
    async with platform.db.begin() as session:
        opened = await rented.open_with(session, token, await platform.steady.epoch())
    return OpenedBody(node_id=opened.node_id, files=bootstrap.files(platform.settings, opened))


@router.post("/internal/gpu/register", operation_id="nodes_report")
async def report(
    platform: PlatformDep,
    node_id: Reporter,
    stage: Annotated[Stage, Query(description="What the machine begins now; `failed` with the reason as detail.")],
    body: Report | None = None,
) -> ReportedBody:
    """How far a machine is, by its node's secret, or by GPU_NODE_SECRET with the id of a node."""
    detail = body.detail if body is not None else ""
    async with platform.db.begin() as session:
        changed = await rented.report(session, node_id, stage, detail, await platform.steady.epoch())
        node = await registry.get(session, node_id)
    return ReportedBody(node_id=node_id, provision_stage=node.provision_stage, changed=changed)


async def _detail(platform: Platform, node_id: str) -> NodeDetail:
    async with platform.db.begin() as session:
        return node_detail(await registry.get(session, NodeId(node_id)), platform.clock.now())


def _cloud(platform: Platform) -> Compute:
    return digitalocean(platform.settings, platform.http)


def _is_shared(platform: Platform, secret: str) -> bool:
    shared = platform.settings.gpu_node_secret
    return shared is not None and hmac.compare_digest(secret.encode(), shared.get_secret_value().encode())
