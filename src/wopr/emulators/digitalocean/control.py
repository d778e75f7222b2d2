"""`/_emulator/`: the page that shows the droplets and what they cost, and faults on demand. Production calls none."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from wopr.emulators.digitalocean import actions, catalog, droplets, faults, firewalls
from wopr.emulators.digitalocean.faults import FaultRequest
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document
from wopr.emulators.pages import page

_SHOWN = 50
_HOUR_SECONDS = 3600


def router(world: World) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/_emulator", include_in_schema=False)

    @routes.get("/")
    async def overview(request: Request) -> HTMLResponse:
        return page(request, "digitalocean_overview.html", _overview(world))

    @routes.get("/state")
    async def state() -> Document:
        """Everything, those droplets included that are being destroyed: nothing is left when it is empty."""
        every = droplets.all_of(world)
        shown = [{"id": int(d["id"]), "name": d["name"], "status": _status(d)} for d in every]
        pending = [actions.shown(a) for a in world.every("action", status=actions.PENDING)]
        return {"droplets": shown, "pending": pending, "hourly_dollars": sum(_hourly(d) for d in every)}

    @routes.get("/faults")
    async def planted() -> Document:
        return {"faults": faults.planted(world)}

    @routes.post("/faults", status_code=201)
    async def plant(wanted: FaultRequest) -> Document:
        with world.documents.transaction():
            return faults.plant(world, wanted)

    @routes.delete("/faults", status_code=204)
    async def clear() -> None:
        with world.documents.transaction():
            faults.clear(world)

    return routes


def _overview(world: World) -> Document:
    every = droplets.all_of(world)
    rows = [_row(world, droplet) for droplet in reversed(every)]
    return {
        "droplets": rows,
        "hourly": sum(row["hourly"] for row in rows),
        "so_far": sum(row["cost"] for row in rows),
        "limit": world.settings.droplet_limit,
        "actions": world.every("action")[: -_SHOWN - 1 : -1],
        "firewalls": [firewalls.shown(world, firewall) for firewall in world.every("firewall")],
        "faults": faults.planted(world),
        "installation": world.settings.installation,
    }


def _row(world: World, droplet: Document) -> Document:
    size = catalog.size(droplet["size"])
    age_hours = (world.now() - droplet["created"]) / _HOUR_SECONDS
    hourly = _hourly(droplet)
    monthly = size["price_monthly"] if size else 0.0
    addresses = {network["type"]: network["ip_address"] for network in droplet["networks"] or []}
    row: Document = {"id": droplet["id"], "name": droplet["name"], "size": droplet["size"], "tags": droplet["tags"]}
    row |= {"status": _status(droplet), "region": droplet["region"], "created": droplet["created"]}
    return row | {"hourly": hourly, "cost": min(hourly * age_hours, monthly), "addresses": addresses}


def _hourly(droplet: Document) -> float:
    size = catalog.size(droplet["size"])
    return float(size["price_hourly"]) if size else 0.0


def _status(droplet: Document) -> str:
    return "destroying" if droplet.get("_destroyed") else str(droplet["status"])
