"""The DigitalOcean stand-in as an application: API, a look inside, and the operator that works beside them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from wopr.emulators.digitalocean import api, control, faults
from wopr.emulators.digitalocean.errors import Refusal, broken, not_found, unauthorized
from wopr.emulators.digitalocean.machines import Machines
from wopr.emulators.digitalocean.operator import Operator
from wopr.emulators.digitalocean.settings import DigitalOceanSettings
from wopr.emulators.digitalocean.simulated import Simulated
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document, Documents
from wopr.emulators.pages import mount_static

_ADDRESS = "last_address"
MachinesOf = Callable[[World], Machines]


def build_digitalocean(
    settings: DigitalOceanSettings | None = None, machines_of: MachinesOf = lambda world: Simulated(world.documents)
) -> FastAPI:
    """The application; its state is in `settings.state` and survives a kill of the process at any moment."""
    chosen = settings or DigitalOceanSettings()
    documents = Documents(chosen.state)
    world = World(documents, chosen, base_url=(chosen.public_url or documents.note(_ADDRESS)).rstrip("/"))
    operator = Operator(world, machines_of(world))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = asyncio.create_task(operator.run())
        yield
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        documents.close()

    app = FastAPI(title="DigitalOcean stand-in", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.world = world
    _add_edges(app, world)
    app.include_router(api.router(world))
    app.include_router(control.router(world))
    mount_static(app)
    return app


def _add_edges(app: FastAPI, world: World) -> None:
    limits = faults.Limits(world.settings)

    @app.middleware("http")
    async def gate(request: Request, call_next):  # type: ignore[no-untyped-def]
        """Whatever comes to /v2 is authorised and counted, and meets the faults that were ordered."""
        _learn_address(world, request)
        if not request.url.path.startswith("/v2"):
            return await call_next(request)
        headers: Mapping[str, str] = {}
        try:
            token = _token(world, request)
            headers = limits.headers(token)
            headers = limits.count(token)
            fault = faults.spoil_request(world, request.method, request.url.path)
            if fault is not None and not fault["after"]:
                await _meet(fault)
            response = await call_next(request)
            if fault is not None:
                await _meet(fault)
        except Refusal as refusal:
            response = _refused(refusal)
        response.headers.update(headers)
        return response

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return _refused(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        return _refused(not_found())

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("/_emulator/")

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok"}


def _learn_address(world: World, request: Request) -> None:
    """Links lead back to where the stand-in was reached, unless its public address was given."""
    address = str(request.base_url).rstrip("/")
    if world.settings.public_url is None and world.base_url != address:
        world.base_url = address
        world.documents.set_note(_ADDRESS, address)


def _token(world: World, request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or world.settings.token not in (None, token):
        raise unauthorized()
    return token


async def _meet(fault: Document) -> None:
    """An answer that never comes, or another one than was earned."""
    if fault["hang_seconds"] is not None:
        await asyncio.sleep(fault["hang_seconds"])
    raise broken(fault["status"] or 503)


def _refused(refusal: Refusal) -> JSONResponse:
    content = {"id": refusal.name, "message": str(refusal), "request_id": str(uuid.uuid4())}
    return JSONResponse(content, refusal.status, dict(refusal.headers))
