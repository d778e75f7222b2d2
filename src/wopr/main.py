"""The composition root of the API: one application from the slices' routes, the gateway, and the table of loops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

import asyncpg
import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from wopr.accounts import api as accounts_api
from wopr.accounts import loops as accounts_loops
from wopr.accounts.guard import PlatformAdmin
from wopr.billing import api as billing_api
from wopr.billing import loops as billing_loops
from wopr.core import reference
from wopr.core.edge import INTERNAL_ERROR, Edge
from wopr.core.errors import Invalid, WoprError
from wopr.core.log import configure_logs
from wopr.core.loops import Loop, LoopLease, LoopRunner
from wopr.core.metrics import BUILD, exposition
from wopr.core.platform import Platform, build_platform
from wopr.core.routing import ErrorAnswer, PlatformDep
from wopr.core.settings import Settings
from wopr.fleet import api as fleet_api
from wopr.fleet import loops as fleet_loops
from wopr.fleet.build import SharedFleet
from wopr.fleet.choices import Choices
from wopr.fleet.outages import bots_that_do_not_start
from wopr.inference import api as inference_api
from wopr.inference import watchdog
from wopr.inference.gateway import Gateway, build_gateway
from wopr.inference.life import Life
from wopr.inference.nodes import SERVICES, Node, backends_of, list_nodes
from wopr.inference.offer import offered_names
from wopr.inference.outages import nodes_seen, services_down
from wopr.inference.pager import Pager
from wopr.inference.provision_loop import provision_loop
from wopr.inference.repair_loop import repair_loop
from wopr.ops.loops import failing_loops, outages_loop

DATABASE_ANSWER_SECONDS = 3.0
DATABASE_AGAIN_SECONDS = 0.1
DATABASE_REMEDY = "Is PostgreSQL running? `wopr status` shows it; the API goes on by itself when it is back."
VERSION = version("wopr")

NOT_BEGUN = {
    "error": {"message": "The service is starting.", "type": "server_error", "param": None, "code": "starting"}
}

log = structlog.get_logger(__name__)
router = APIRouter()


async def find_choices(session: AsyncSession, settings: Settings) -> Choices:
    """What a bot may be made of, by what the nodes listed. An outside provider takes every model's name."""
    names = offered_names(await list_nodes(session), settings.wopr_prices)
    models = () if settings.fallback_api_base else names.chat_models
    return Choices(models, names.voices, names.more_voices)


def table_of_loops(platform: Platform, fleet: SharedFleet) -> Sequence[Loop]:
    """Everything that runs by itself in an API process."""
    life, pager = Life(platform.notifier, platform.clock.monotonic), Pager(platform)
    return [
        *accounts_loops.loops(platform),
        *billing_loops.loops(platform),
        watchdog.watchdog_loop(platform, life),
        provision_loop(platform, pager),
        repair_loop(platform, life, pager),
        outages_loop(platform, (services_down, failing_loops, bots_that_do_not_start), nodes_seen),
        *fleet_loops.loops(platform, fleet),
    ]


class Api:
    """The ASGI application: `/v1` goes to the gateway untouched, everything else to the routes."""

    def __init__(self, routes: FastAPI, gateway: Gateway) -> None:
        self.routes = routes
        self._gateway = gateway
        self._edge = Edge(routes)

    def drain(self) -> None:
        """From now on `/ready` says that requests should go elsewhere; those that come are still answered."""
        self.routes.state.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            if not self.routes.state.begun:
                await JSONResponse(NOT_BEGUN, 503, {"retry-after": "1"})(scope, receive, send)
                return
            await self._gateway(scope, receive, send)
        else:
            await self._edge(scope, receive, send)


def build_api(settings: Settings, head_revision: str) -> Api:
    """The API on these settings. `head_revision` is the migration without which it does not become ready."""
    configure_logs(settings.log_level, settings.log_format)
    BUILD.info({"version": VERSION})
    platform = build_platform(settings)
    gateway = build_gateway(platform)
    routes = FastAPI(
        title="WOPR",
        version=VERSION,
        lifespan=lambda app: _running(app, platform, gateway),
        description="Accounts, billing, bots and nodes. The OpenAI-compatible gateway is under `/v1`.",
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": ErrorAnswer, "description": "What went wrong, and who can do what about it."}},
    )
    routes.state.platform = platform
    routes.state.fleet = SharedFleet(platform, find_choices)
    routes.state.head_revision = head_revision
    routes.state.draining = False
    routes.state.begun = False
    routes.state.failure = ""
    install_error_handlers(routes)
    for part in (router, accounts_api.router, billing_api.router, inference_api.router, fleet_api.router):
        routes.include_router(part)
    return Api(routes, gateway)


@contextlib.asynccontextmanager
async def _running(app: FastAPI, platform: Platform, gateway: Gateway) -> AsyncIterator[None]:
    await platform.notifier.start()
    runner = LoopRunner(platform.db, platform.notifier, table_of_loops(platform, app.state.fleet))
    beginning = asyncio.create_task(_begin(app, platform, gateway, runner), name="begin")
    try:
        yield
    finally:
        app.state.draining = True
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        await runner.stop()
        if app.state.begun:
            await gateway.shutdown(platform.settings.drain_seconds)
        await app.state.fleet.close()
        await platform.close()


async def _begin(app: FastAPI, platform: Platform, gateway: Gateway, runner: LoopRunner) -> None:
    """Start gateway and loops once no migration is pending: nothing may write to tables that are about to change."""
    while await _database_reasons(platform, app.state.head_revision):  # noqa: ASYNC110 - another process migrates
        await asyncio.sleep(DATABASE_AGAIN_SECONDS)
    try:
        await gateway.startup()
        app.state.begun = True
        await runner.start()
    except Exception as error:
        # Nobody waits for this task: without a word the process would stay half alive for ever.
        app.state.failure = f"could not begin: {type(error).__name__}"
        log.exception("api.begin_failed")
        raise


def install_error_handlers(app: FastAPI) -> None:
    """Write every error as `{"error":{"code","message","remedy"}}`; no stack trace ever leaves the process."""
    app.add_exception_handler(WoprError, _known_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _framework_error)
    for kind in (
        OperationalError, InterfaceError, PoolTimeout, asyncpg.PostgresConnectionError, ConnectionError, TimeoutError
    ):  # fmt: skip
        app.add_exception_handler(kind, _database_away)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(Exception, _unexpected)


async def _known_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WoprError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    invalid = Invalid(f"{where}: {first['msg']}", remedy="See /docs for what this request takes.")
    return JSONResponse(invalid.body(), invalid.status)


async def _framework_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
    remedies = {400: "Send JSON, with content-type application/json."}
    code, remedy = (
        codes.get(error.status_code, "http_error"),
        remedies.get(error.status_code, "See /docs for the routes."),
    )
    body = {"error": {"code": code, "message": f"{error.detail}.", "remedy": remedy}}
    return JSONResponse(body, error.status_code, error.headers)


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.warning("request.database_away", path=request.url.path, error=type(error).__name__)
    body = {"error": {"code": "unavailable", "message": "The database does not answer.", "remedy": DATABASE_REMEDY}}
    return JSONResponse(body, 503, {"retry-after": "2"})


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DBAPIError)
    code = getattr(error.orig, "sqlstate", None) or ""
    if error.connection_invalidated or code.startswith(("08", "57P", "53")):
        return await _database_away(request, error)
    if code in ("22P05", "22021", "22003", "22P02"):
        # What PostgreSQL can't store (a NUL in a text, a number out of range) is the caller's mistake.
        invalid = Invalid(
            "The request holds a value that can't be stored.", remedy="Remove control characters and shorten numbers."
        )
        return JSONResponse(invalid.body(), invalid.status)
    raise error


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette raises the error again after this answer, so the edge still logs it."""
    return JSONResponse(INTERNAL_ERROR, 500)


@router.get("/health", operation_id="health", tags=["operations"])
@router.get("/livez", include_in_schema=False)
async def health() -> dict[str, str]:
    """Whether the process can serve at all."""
    return {"status": "ok"}


@router.get("/ready", operation_id="ready", tags=["operations"])
@router.get("/readyz", include_in_schema=False)
async def ready(request: Request, platform: PlatformDep) -> JSONResponse:
    """Whether requests should be sent here: 503 with the reasons when not."""
    state = request.app.state
    if state.draining:
        # At once: the proxy must look elsewhere before this process closes, however slow the database is.
        return JSONResponse({"status": "unready", "reasons": ["draining"]}, 503)
    reasons = [] if state.begun else [state.failure or "starting"]
    reasons += await _database_reasons(platform, state.head_revision)
    return JSONResponse({"status": "ok" if not reasons else "unready", "reasons": reasons}, 503 if reasons else 200)


async def _database_reasons(platform: Platform, head: str) -> list[str]:
    try:
        async with asyncio.timeout(DATABASE_ANSWER_SECONDS):
            revision = await platform.db.revision()
    except (OSError, TimeoutError, DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [f"database away: {type(error).__name__}"]
    # A database ahead of the code is fine: while a release comes in, or goes back, the old code runs on the new tables.
    return (
        []
        if revision and revision >= head
        else [f"migrations pending: database at {revision or 'nothing'}, code at {head}"]
    )


@router.get("/metrics", include_in_schema=False)
async def metrics() -> Response:
    """Every metric in Prometheus' format."""
    return PlainTextResponse(exposition(), media_type="text/plain; version=0.0.4")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """What this API takes and answers, for people."""
    return HTMLResponse(reference.render(request.app.openapi()), headers=reference.HEADERS)


@router.get("/api/status", operation_id="status", tags=["operations"])
async def status(request: Request, platform: PlatformDep) -> JSONResponse:
    """The public summary that the status page shows."""
    reasons = await _database_reasons(platform, request.app.state.head_revision)
    services = [{"name": "database", "status": "down" if reasons else "ok", "detail": "; ".join(reasons)}]
    if not reasons:
        async with platform.db.begin() as session:
            services += _services(await list_nodes(session))
    overall = "ok" if all(service["status"] == "ok" for service in services) else "degraded"
    return JSONResponse({"status": overall, "version": VERSION, "services": services})


def _services(nodes: Sequence[Node]) -> list[dict[str, str]]:
    """What customers care about: whether some node serves each kind of request."""
    lines = []
    for service in SERVICES:
        serving = sum(backend.serves for node in nodes for backend in backends_of(node) if backend.service == service)
        state = "ok" if serving else "down"
        lines.append({"name": service, "status": state, "detail": f"{serving} of {len(nodes)} nodes"})
    return lines


@router.get("/api/admin/loops", operation_id="loops_list", tags=["operations"])
async def loops(platform: PlatformDep, _admin: PlatformAdmin) -> dict[str, list[dict[str, object]]]:
    """Each loop with its last pass."""
    async with platform.db.begin() as session:
        leases = {lease.name: lease for lease in await session.scalars(select(LoopLease))}
    table = table_of_loops(platform, SharedFleet(platform))
    return {"loops": [_loop_line(loop, leases.get(loop.name)) for loop in table]}


def _loop_line(loop: Loop, lease: LoopLease | None) -> dict[str, object]:
    return {
        "name": loop.name,
        "why": loop.why,
        "period_seconds": loop.period_seconds,
        "last_started_at": lease.last_started_at if lease else None,
        "last_finished_at": lease.last_finished_at if lease else None,
        "last_counts": lease.last_counts if lease else None,
        "last_error": lease.last_error if lease else None,
        "holder": lease.holder if lease else None,
    }
