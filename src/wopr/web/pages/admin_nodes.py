"""Nodes for administrators: health, renting with the price in sight, how far each is, giving them back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.inference import MachineSizes
from wopr.web.once import new_mark, once_key
from wopr.web.rendering import redirect
from wopr.web.visit import Administrator, Visit

router = APIRouter()
COUNT_MAX = 20
LOG_LINES = 100
# The page of a node before anybody asks for what was written there: a machine that is away must not keep it waiting.
NOTHING_READ: Mapping[str, object] = {"tab": "nodes", "source": "", "lines": (), "away": None}
Field = Annotated[str, Form()]


@router.get("/admin/nodes")
async def nodes(visit: Administrator) -> Response:
    """Nodes with live health and stages."""
    return await _page(visit)


@router.get("/admin/nodes/list")
async def node_list(visit: Administrator) -> Response:
    """The nodes alone, renewed every few seconds."""
    return visit.page("parts/nodes.html", {"nodes": await visit.api.inference.nodes()})


@router.get("/admin/nodes/{node_id}")
async def node(visit: Administrator, node_id: str) -> Response:
    """One node with the course of its making."""
    return visit.page("pages/admin_node.html", {"node": await visit.api.inference.node(node_id), **NOTHING_READ})


@router.get("/admin/nodes/{node_id}/stages")
async def stages(visit: Administrator, node_id: str) -> Response:
    """The stages alone, renewed while it is made."""
    return visit.page("parts/node_stages.html", {"node": await visit.api.inference.node(node_id)})


@router.get("/admin/nodes/{node_id}/logs")
async def logs(visit: Administrator, node_id: str, source: str = "") -> Response:
    """What was written on a node: a part of its page for scripts, the whole one without them.

    Why a machine does not tell it stands in the place of the lines.
    """
    values = {"node": await visit.api.inference.node(node_id), **NOTHING_READ, "source": source}
    try:
        values["lines"] = await visit.api.inference.node_logs(node_id, source, LOG_LINES)
    except ApiError as error:
        if error.status == 401:
            raise
        values["away"] = error
    part = bool(visit.request.headers.get("hx-request"))
    return visit.page("parts/node_logs.html" if part else "pages/admin_node.html", values)


@router.post("/admin/nodes")
async def register(visit: Administrator, id: Field = "", host: Field = "", region: Field = "") -> Response:
    """Add a machine that runs already."""
    try:
        await visit.api.inference.register_node(id.strip(), host.strip(), region=region.strip() or None)
    except ApiError as error:
        return await _page(visit, error)
    return redirect("/admin/nodes", "node-registered")


@router.get("/admin/rent-nodes")
async def rent(visit: Administrator, size: str = "", region: str = "", count: str = "1") -> Response:
    """Ask whether it is worth its price, in all."""
    try:
        question = await _question(visit, size, region, count)
    except ApiError as error:
        return await _page(visit, error)
    return visit.page("pages/admin_rent.html", question)


@router.post("/admin/nodes/provision")
async def provision(
    visit: Administrator, size: Field = "", region: Field = "", count: Field = "1", once: Field = ""
) -> Response:
    """Rent machines; the page has asked before. The form that is sent twice rents once."""
    try:
        key = once_key(once, size, region, count)
        wanted = {"region": region.strip(), "size": size.strip()}
        await visit.api.inference.provision_nodes(**wanted, count=_number(count), once=key)
    except ApiError as error:
        return await _page(visit, error)
    return redirect("/admin/nodes", "nodes-ordered")


@router.post("/admin/nodes/{node_id}/destroy")
async def destroy(visit: Administrator, node_id: str) -> Response:
    """Give a rented node back; the page has asked before."""
    await visit.api.inference.destroy_node(node_id)
    return redirect("/admin/nodes", "node-given-back")


@router.post("/admin/nodes/{node_id}/retry")
async def retry(visit: Administrator, node_id: str) -> Response:
    """Make a node again; the page has asked before."""
    await visit.api.inference.retry_node(node_id)
    return redirect("/admin/nodes", "node-retried")


@router.post("/admin/nodes/{node_id}/reboot")
async def reboot(visit: Administrator, node_id: str) -> Response:
    """Restart a rented machine; the page has asked before."""
    await visit.api.inference.reboot_node(node_id)
    return redirect("/admin/nodes", "node-rebooted")


@router.post("/admin/nodes/{node_id}/want")
async def want(visit: Administrator, node_id: str, desired: Field = "") -> Response:
    """Keep requests away from a node, empty it, or have it back."""
    try:
        await visit.api.inference.want_node(node_id, desired)
    except ApiError as error:
        return await _page(visit, error)
    return redirect("/admin/nodes", f"node-{desired}")


@router.post("/admin/nodes/{node_id}/repair")
async def repair(visit: Administrator, node_id: str, rung: Field = "restart") -> Response:
    """Repair a node now; the page has told what that means."""
    try:
        await visit.api.inference.repair_node(node_id, rung)
    except ApiError as error:
        return await _page(visit, error)
    return redirect("/admin/nodes", "node-repair")


@router.post("/admin/nodes/{node_id}/remove")
async def remove(visit: Administrator, node_id: str) -> Response:
    """Forget a node that was registered by hand; the page has asked before."""
    await visit.api.inference.remove_node(node_id)
    return redirect("/admin/nodes", "node-removed")


async def _page(visit: Visit, problem: ApiError | None = None) -> Response:
    if problem is not None and (problem.unreachable or problem.status == 401):
        raise problem
    nodes, offer = await asyncio.gather(visit.api.inference.nodes(), _offer(visit))
    sizes = offer if isinstance(offer, MachineSizes) else None
    regions = sorted({region for size in sizes.sizes for region in size.regions}) if sizes else []
    values = {
        "nodes": nodes,
        "offer": sizes,
        "regions": regions,
        "no_offer": offer if sizes is None else None,
        "counts": range(1, COUNT_MAX + 1),
        "tab": "nodes",
        "problem": problem,
    }
    return visit.page("pages/admin_nodes.html", values, problem.status if problem else 200)


async def _question(visit: Visit, slug: str, region: str, count: str) -> Mapping[str, object]:
    """What is asked before machines are rented; ApiError for what can't be."""
    number, offer = _number(count), await visit.api.inference.sizes()
    size = next((one for one in offer.sizes if one.slug == slug), None)
    if size is None:
        raise ApiError(422, "invalid", f"There is no size {slug!r}.", "Choose one from the list.")
    if region not in size.regions:
        there = ", ".join(size.regions)
        raise ApiError(422, "invalid", f"{slug} is not to be had in {region}.", f"It is in: {there}.")
    return {"size": size, "region": region, "count": number, "once": new_mark(), "tab": "nodes"}


def _number(count: str) -> int:
    """How many machines; ApiError for what is no such number."""
    text = count.strip()
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= COUNT_MAX:
        raise ApiError(422, "invalid", f"{count!r} nodes can't be rented.", f"Choose from 1 to {COUNT_MAX}.")
    return int(text)


async def _offer(visit: Visit) -> MachineSizes | ApiError:
    """What can be rented, or why nothing can: a cloud that is away must not hide the nodes."""
    try:
        return await visit.api.inference.sizes()
    except ApiError as error:
        if error.status == 401:
            raise
        return error
