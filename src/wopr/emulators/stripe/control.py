"""`/_emulator/`: looking into the stand-in and making it act. Stripe has no such routes; production calls none."""

import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from wopr.emulators.documents import Document, Query
from wopr.emulators.pages import page
from wopr.emulators.stripe.settings import API_VERSION
from wopr.emulators.stripe.timeline import advance
from wopr.emulators.stripe.triggers import TRIGGERS, Wish, trigger
from wopr.emulators.stripe.world import World, public

_SHOWN = 50
_ADVANCE_SECONDS_MAX = 2 * 366 * 86400
_COUNTED = ("customer", "checkout.session", "subscription", "invoice", "charge", "refund", "dispute", "event")


class TriggerRequest(BaseModel):
    """What shall happen, and to which object if not the newest."""

    event: str
    target: str | None = None
    amount: int | None = Field(default=None, ge=1)
    outcome: str | None = None
    dry_run: bool = False


class AdvanceRequest(BaseModel):
    """By how much the world's clock moves on."""

    seconds: int = Field(default=0, ge=0)
    days: int = Field(default=0, ge=0)
    dry_run: bool = False


def router(world: World, after_change: Callable[[], None]) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/_emulator", include_in_schema=False)

    @routes.get("/")
    async def overview(request: Request) -> HTMLResponse:
        return page(request, "stripe_overview.html", _overview(world))

    @routes.get("/deliveries")
    async def deliveries() -> Document:
        found = world.documents.select(Query("_delivery", limit=_SHOWN * 4))
        return {"deliveries": [{k: v for k, v in d.items() if k != "object"} for d in found]}

    @routes.post("/deliveries/{delivery_id}/resend")
    async def resend(delivery_id: str) -> JSONResponse:
        delivery = world.documents.get(delivery_id, "_delivery")
        if delivery is None:
            return JSONResponse({"error": {"message": f"There is no delivery {delivery_id}."}}, 404)
        world.save(delivery | {"state": "pending", "due_at": time.time(), "attempts": 0})
        after_change()
        return JSONResponse({"resent": delivery_id})

    @routes.get("/clock")
    async def clock() -> Document:
        return {"now": world.now(), "offset_seconds": world.offset()}

    @routes.post("/advance")
    async def advance_clock(wanted: AdvanceRequest) -> JSONResponse:
        seconds = wanted.seconds + wanted.days * 86400
        if not 0 < seconds <= _ADVANCE_SECONDS_MAX:
            return JSONResponse({"error": {"message": "Advance by more than nothing and two years at most."}}, 400)
        with world.documents.rehearsal() if wanted.dry_run else world.documents.transaction():
            world.set_offset(world.offset() + seconds)
            steps = advance(world, None, world.now())
            reached = {"now": world.now(), "offset_seconds": world.offset(), "steps": steps}
        after_change()
        return JSONResponse(reached)

    @routes.get("/triggers")
    async def triggers() -> Document:
        return {"triggers": sorted(TRIGGERS)}

    @routes.post("/trigger")
    async def act(wanted: TriggerRequest) -> Document:
        events = trigger(world, wanted.event, Wish(wanted.target, wanted.amount, wanted.outcome, wanted.dry_run))
        after_change()
        told = [{"id": e["id"], "type": e["type"], "object": e["data"]["object"].get("id")} for e in events]
        return {"triggered": wanted.event, "events": told}

    return routes


def _overview(world: World) -> Document:
    endpoints = world.documents.select(Query("webhook_endpoint", oldest_first=True))
    return {
        "api_version": API_VERSION,
        "now": world.now(),
        "offset": world.offset(),
        "counts": {kind: world.documents.count(kind) for kind in _COUNTED},
        "endpoints": [public(e) for e in endpoints],
        "deliveries": world.documents.select(Query("_delivery", limit=_SHOWN)),
        "events": world.documents.select(Query("event", limit=_SHOWN)),
        "sessions": world.documents.select(Query("checkout.session", limit=10)),
        "triggers": sorted(TRIGGERS),
        "default_price_id": world.settings.default_price_id,
    }
