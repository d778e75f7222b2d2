"""The Cloudflare stand-in as an application: version 4 of the API, a page, a name server behind both."""

import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import dns.message
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from wopr.emulators.cloudflare import control, records, zones
from wopr.emulators.cloudflare.answers import Zone, answer
from wopr.emulators.cloudflare.errors import CloudflareError, no_zone
from wopr.emulators.cloudflare.settings import CloudflareSettings
from wopr.emulators.documents import Document, Documents
from wopr.emulators.nameserver import NameServer
from wopr.emulators.pages import mount_static

PREFIX = "/client/v4"
PAGE_RECORDS, PAGE_ZONES = (100, 5_000_000), (20, 50)
TOKEN = re.compile(r"[A-Za-z0-9_-]{40,}")
TOKEN_ID = "ed17574386854bf78a67040be0a770b0"  # noqa: S105 - a name for the token, not the token
Next = Callable[[Request], Awaitable[Response]]


def build_cloudflare(settings: CloudflareSettings | None = None, server: NameServer | None = None) -> FastAPI:
    """The application. `server` answers from the same records for as long as the application runs."""
    chosen = settings or CloudflareSettings()
    store = Documents(chosen.state)
    with store.transaction():
        for name in chosen.zones:
            zones.add(store, name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if server is not None:
            await server.start(partial(_answered, store))
        yield
        if server is not None:
            await server.close()
        store.close()

    app = FastAPI(title="Cloudflare stand-in", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_edges(app, store, chosen)
    app.include_router(_tokens())
    app.include_router(_zones(store))
    app.include_router(_records(store))
    app.include_router(control.router(store, server))
    mount_static(app)
    return app


def _tokens() -> APIRouter:
    routes = APIRouter(prefix=f"{PREFIX}/user/tokens", include_in_schema=False)

    @routes.get("/verify")
    async def verify() -> Document:
        told = {"code": 10000, "message": "This API Token is valid and active", "type": None}
        return _success({"id": TOKEN_ID, "status": "active"}) | {"messages": [told]}

    return routes


def _zones(store: Documents) -> APIRouter:
    routes = APIRouter(prefix=f"{PREFIX}/zones", include_in_schema=False)

    @routes.get("")
    async def listed(request: Request) -> Document:
        name, status = request.query_params.get("name"), request.query_params.get("status")
        found = [z for z in zones.every(store) if name in (None, z["name"]) and status in (None, z["status"])]
        return _page(request, found, PAGE_ZONES)

    @routes.get("/{zone_id}")
    async def retrieve(zone_id: str) -> Document:
        return _success(records.shown(_zone(store, zone_id)))

    return routes


def _records(store: Documents) -> APIRouter:
    routes = APIRouter(prefix=f"{PREFIX}/zones/{{zone_id}}/dns_records", include_in_schema=False)

    @routes.get("")
    async def listed(request: Request, zone_id: str) -> Document:
        found = records.chosen(store, _zone(store, zone_id), dict(request.query_params))
        return _page(request, found, PAGE_RECORDS)

    @routes.post("")
    async def create(request: Request, zone_id: str) -> Document:
        body = await _body(request)
        with store.transaction():
            return _success(records.shown(records.create(store, _zone(store, zone_id), body)))

    @routes.get("/{record_id}")
    async def retrieve(zone_id: str, record_id: str) -> Document:
        return _success(records.shown(records.find(store, _zone(store, zone_id), record_id)))

    @routes.put("/{record_id}")
    async def replace(request: Request, zone_id: str, record_id: str) -> Document:
        body = await _body(request)
        with store.transaction():
            return _success(records.shown(records.replace(store, _zone(store, zone_id), record_id, body)))

    @routes.patch("/{record_id}")
    async def update(request: Request, zone_id: str, record_id: str) -> Document:
        body = await _body(request)
        with store.transaction():
            return _success(records.shown(records.update(store, _zone(store, zone_id), record_id, body)))

    @routes.delete("/{record_id}")
    async def delete(zone_id: str, record_id: str) -> Document:
        with store.transaction():
            records.delete(store, _zone(store, zone_id), record_id)
        return _success({"id": record_id})

    return routes


def _zone(store: Documents, zone_id: str) -> Document:
    zone = store.get(zone_id, "zone")
    if zone is None:
        raise no_zone(zone_id)
    return zone


def _success(result: object) -> Document:
    return {"success": True, "errors": [], "messages": [], "result": result}


def _page(request: Request, found: Sequence[Document], limits: tuple[int, int]) -> Document:
    usual, most = limits
    try:
        page = int(request.query_params.get("page", 1))
        size = int(request.query_params.get("per_page", usual))
    except ValueError:
        raise CloudflareError(400, 1004, "page and per_page must be numbers.") from None
    if page < 1 or not 1 <= size <= most:
        raise CloudflareError(400, 1004, f"per_page must be between 1 and {most}, page at least 1.")
    shown = [records.shown(one) for one in found[(page - 1) * size : page * size]]
    info = {"page": page, "per_page": size, "count": len(shown), "total_count": len(found)}
    return _success(shown) | {"result_info": info | {"total_pages": -(-len(found) // size)}}


async def _body(request: Request) -> records.Body:
    try:
        return records.must_be_object(json.loads(await request.body()))
    except ValueError:
        raise CloudflareError(400, 9207, "Content-type must be application/json.") from None


async def _answered(store: Documents, query: dns.message.Message) -> dns.message.Message:
    def zone_of(name: str) -> Zone | None:
        zone = zones.above(store, name)
        if zone is None:
            return None
        return Zone(zone["name"], zone["_serial"], zone["name_servers"], records.of_zone(store, zone["id"]))

    return answer(query, zone_of)


class _Quota:
    """Requests of each token in a window that starts with its first one, as Cloudflare counts them."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._windows: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def take(self, token: str) -> tuple[int, int]:
        """Count one; what is left (negative: too many) and the seconds until the window ends."""
        now = time.monotonic()
        began, used = self._windows[token]
        if not used or now - began >= self.seconds:
            began, used = now, 0
        self._windows[token] = (began, used + 1)
        return self.most - used - 1, max(1, -int(-(began + self.seconds - now) // 1))


def _add_edges(app: FastAPI, store: Documents, settings: CloudflareSettings) -> None:
    quota = _Quota(settings.requests_max, settings.window_seconds)

    @app.middleware("http")
    async def guard(request: Request, proceed: Next) -> Response:
        if not request.url.path.startswith(PREFIX):
            return await proceed(request)
        try:
            token = _authorized(request, settings)
            control.refuse_if_told(store)
        except CloudflareError as error:
            return _refusal(error)
        left, reset = quota.take(token)
        policy = f'"default";q={settings.requests_max};w={settings.window_seconds:.0f}'
        headers = {"ratelimit": f'"default";r={max(left, 0)};t={reset}', "ratelimit-policy": policy}
        if left < 0:
            limited = CloudflareError(429, 971, "Please wait and consider throttling your request speed")
            return _refusal(limited, headers | {"retry-after": str(reset)})
        response = await proceed(request)
        response.headers.update(headers)
        return response

    @app.exception_handler(CloudflareError)
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, CloudflareError)
        return _refusal(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"Could not route to {request.url.path}, perhaps your object identifier is invalid?"
        code = (7003, text) if error.status_code == 404 else (10405, "Method not allowed for this URI.")
        return _refusal(CloudflareError(error.status_code, *code))

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok"}


def _refusal(error: CloudflareError, headers: dict[str, str] | None = None) -> Response:
    retry = {"retry-after": "1"} if error.status == 429 else {}
    return JSONResponse(error.body(), error.status, headers or retry)


def _authorized(request: Request, settings: CloudflareSettings) -> str:
    """The token, when it may be used; how Cloudflare says otherwise depends on what is asked."""
    given = request.headers.get("authorization", "")
    if not given:
        raise CloudflareError(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not TOKEN.fullmatch(token):
        chain = [(6111, "Invalid format for Authorization header")]
        raise CloudflareError(400, 6003, "Invalid request headers", chain)
    if settings.api_token is not None and token != settings.api_token:
        if request.url.path.endswith("/tokens/verify"):
            raise CloudflareError(401, 1000, "Invalid API Token")
        raise CloudflareError(403, 9109, "Invalid access token")
    return token
