"""For administrators: tenants, bots, the payments inbox, loops. Everybody else gets 404. Nodes: `admin_nodes`."""

from __future__ import annotations

import asyncio
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.web.once import new_mark, once_key
from wopr.web.rendering import redirect
from wopr.web.visit import Administrator, Visit

router = APIRouter()
BOTS_SHOWN = 100
INBOX_STATES = ("", "pending", "failed", "unmatched", "applied")
Field = Annotated[str, Form()]


@router.get("/admin")
async def overview(visit: Administrator) -> Response:
    """What needs a look, first."""
    api = visit.api
    asked = (
        api.inference.nodes(),
        api.ops.loops(),
        api.billing.admin_inbox(),
        api.billing.admin_ledger(),
        api.ops.status(),
    )
    nodes, loops, inbox, ledger, summary = await asyncio.gather(*(_or_problem(one) for one in asked))
    values = {"nodes": nodes, "loops": loops, "inbox": inbox, "ledger": ledger, "summary": summary, "tab": "overview"}
    return visit.page("pages/admin_overview.html", values)


@router.get("/admin/tenants")
async def tenants(visit: Administrator, q: str = "", cursor: str = "") -> Response:
    """Tenants with their credit."""
    return await _tenants(visit, q, cursor)


@router.post("/admin/tenants/{tenant_id}/credit")
async def credit(
    visit: Administrator, tenant_id: str, amount_usd: Field = "", reason: Field = "", once: Field = ""
) -> Response:
    """Grant credit, with a reason that stays."""
    key = once_key(once, tenant_id, amount_usd, reason)
    try:
        await visit.api.billing.admin_credit(tenant_id, _dollars(amount_usd), reason.strip(), once=key)
    except ApiError as error:
        if error.unreachable or error.status == 401:
            raise
        return await _tenants(visit, "", "", error)
    return redirect("/admin/tenants", "credit-granted")


@router.post("/admin/tenants/{tenant_id}/suspend")
async def suspend(visit: Administrator, tenant_id: str) -> Response:
    """Refuse a tenant's keys and stop its bots; the page has asked before."""
    await visit.api.accounts.suspend_tenant(tenant_id, True)
    return redirect("/admin/tenants", "tenant-suspended")


@router.post("/admin/tenants/{tenant_id}/reinstate")
async def reinstate(visit: Administrator, tenant_id: str) -> Response:
    """Take the suspension back."""
    await visit.api.accounts.suspend_tenant(tenant_id, False)
    return redirect("/admin/tenants", "tenant-reinstated")


@router.get("/admin/bots")
async def bots(visit: Administrator, cursor: str = "", q: str = "") -> Response:
    """Bots of all tenants."""
    page = await visit.api.fleet.admin_bots(cursor or None)
    wanted = q.strip().lower()
    found = [bot for bot in page.bots if wanted in f"{bot.name} {bot.tenant_name} {bot.state}".lower()]
    values = {"bots": found[:BOTS_SHOWN], "found": len(found), "next_cursor": page.next_cursor, "q": q, "tab": "bots"}
    return visit.page("pages/admin_bots.html", values)


@router.get("/admin/inbox")
async def inbox(visit: Administrator, state: str = "", cursor: str = "") -> Response:
    """Payment events."""
    page = await visit.api.billing.admin_inbox(state or None, cursor or None)
    values = {"page": page, "state": state, "states": INBOX_STATES, "tab": "inbox"}
    return visit.page("pages/admin_inbox.html", values)


@router.post("/admin/inbox/{event_id}/retry")
async def retry(visit: Administrator, event_id: str) -> Response:
    """Apply an event again."""
    await visit.api.billing.admin_retry(event_id)
    return redirect("/admin/inbox", "event-retried")


@router.get("/admin/loops")
async def loops(visit: Administrator) -> Response:
    """What runs by itself, with its last run."""
    return visit.page("pages/admin_loops.html", {"loops": await visit.api.ops.loops(), "tab": "loops"})


async def _tenants(visit: Visit, query: str, cursor: str, problem: ApiError | None = None) -> Response:
    page = await visit.api.billing.admin_tenants(query.strip() or None, cursor or None)
    values = {"page": page, "q": query, "cursor": cursor, "problem": problem, "tab": "tenants", "once": new_mark()}
    return visit.page("pages/admin_tenants.html", values, problem.status if problem else 200)


async def _or_problem(asked: Any) -> Any:  # Any: each call of the overview has its own answer, or its error
    """One broken part must not hide the others on the overview."""
    try:
        return await asked
    except ApiError as error:
        if error.status == 401:
            raise
        return error


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text.strip().removeprefix("$").replace(",", ""))
    except InvalidOperation as error:
        raise ApiError(422, "invalid", "The amount has to be a number of dollars.", "Write it as 5 or 5.00.") from error
    if not amount.is_finite() or amount == 0:
        raise ApiError(422, "invalid", "The amount must not be zero.", "Write it as 5 or 5.00.")
    return amount
