"""The page on which zones and records are seen, and `/_emulator/` for tests: further zones, and refusals on demand."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from wopr.emulators.cloudflare import records, zones
from wopr.emulators.cloudflare.errors import CloudflareError, not_permitted
from wopr.emulators.documents import Document, Documents
from wopr.emulators.nameserver import NameServer
from wopr.emulators.pages import page

_REFUSALS = "refusals"
_REFUSED = {
    403: not_permitted(),
    429: CloudflareError(429, 971, "Please wait and consider throttling your request speed"),
    500: CloudflareError(500, 1006, "Internal error"),
    503: CloudflareError(503, 10013, "Service temporarily unavailable"),
}


class RefusalRequest(BaseModel):
    """How the next requests shall fail; 403 as a token that lacks a permission."""

    status: int = 429
    times: int = Field(default=1, ge=0, le=10_000)


class ZoneRequest(BaseModel):
    """A further domain of the account."""

    name: str = Field(pattern=r"^([a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63}$")


def refuse_if_told(store: Documents) -> None:
    """Raise the refusal that was ordered, and count it down."""
    status, _, left = store.note(_REFUSALS).partition(" ")
    if not status or int(left) == 0:
        return
    with store.transaction():
        store.set_note(_REFUSALS, f"{status} {int(left) - 1}")
    raise _REFUSED[int(status)]


def router(store: Documents, server: NameServer | None) -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def overview(request: Request) -> HTMLResponse:
        found = [(zone, _sorted(records.of_zone(store, zone["id"]))) for zone in zones.every(store)]
        where = f"{server.host}:{server.port}" if server else ""
        return page(request, "cloudflare_zones.html", {"zones": found, "server": where})

    @routes.get("/_emulator/records")
    async def everything() -> Document:
        return {z["name"]: [records.shown(r) for r in records.of_zone(store, z["id"])] for z in zones.every(store)}

    @routes.post("/_emulator/zones", status_code=201)
    async def add(wanted: ZoneRequest) -> Document:
        with store.transaction():
            return records.shown(zones.add(store, wanted.name))

    @routes.get("/_emulator/dns")
    async def name_server() -> Document:
        return {"host": server.host, "port": server.port} if server else {}

    @routes.post("/_emulator/refuse")
    async def refuse(wanted: RefusalRequest) -> JSONResponse:
        if wanted.status not in _REFUSED:
            return JSONResponse({"error": {"message": f"status must be one of {sorted(_REFUSED)}"}}, 400)
        with store.transaction():
            store.set_note(_REFUSALS, f"{wanted.status} {wanted.times}")
        return JSONResponse({"status": wanted.status, "times": wanted.times})

    return routes


def _sorted(found: list[Document]) -> list[Document]:
    return sorted(found, key=lambda record: (record["name"].split(".")[::-1], record["type"], record["content"]))
