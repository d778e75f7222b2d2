"""`build_web`: the application of the UI, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from wopr.client import ApiError, shared_http
from wopr.core.settings import Settings
from wopr.web import faults
from wopr.web.assets import load_assets
from wopr.web.pages import (
    account,
    admin,
    admin_nodes,
    billing,
    bot,
    chat,
    dashboard,
    entry,
    keys,
    logs,
    new_bot,
    public,
    usage,
)
from wopr.web.prices import PriceBoard
from wopr.web.shield import Shield
from wopr.web.site import Site, mailbox, origin_of, payment_origins

YEAR_SECONDS = 365 * 86400


def build_web(settings: Settings) -> FastAPI:
    """The UI as an ASGI application; it opens no connection before the first request."""
    http = shared_http(settings.internal_url)
    site = Site(
        api_url=settings.internal_url,
        ui_origin=origin_of(settings.ui_url),
        api_public_url=settings.api_url.rstrip("/"),
        payment_origins=payment_origins(settings),
        mailbox=mailbox(settings),
        http=http,
        assets=load_assets(),
        prices=PriceBoard(http),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await http.aclose()

    app = FastAPI(title="WOPR", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.site = site
    for module in (
        public,
        entry,
        dashboard,
        new_bot,
        chat,
        logs,
        usage,
        bot,
        billing,
        keys,
        account,
        admin,
        admin_nodes,
    ):
        app.include_router(module.router)
    app.state.draining = False
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/static/{version}/{name:path}", static, methods=["GET", "HEAD"])
    app.add_exception_handler(ApiError, faults.api_error)
    app.add_exception_handler(HTTPException, faults.http_error)
    app.add_exception_handler(RequestValidationError, faults.unreadable)
    app.add_middleware(Shield, site=site)
    return app


async def health() -> Response:
    """Liveness of this process; says nothing about the API."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether requests should be sent here; a page says itself when the API is away."""
    if request.app.state.draining:
        return JSONResponse({"status": "unready", "reasons": ["draining"]}, 503)
    return JSONResponse({"status": "ok", "reasons": []})


def begin_drain(app: FastAPI) -> None:
    """From now on `/ready` says that requests should go elsewhere; those that come are still answered."""
    app.state.draining = True


async def static(request: Request, version: str, name: str) -> Response:
    """A static file; its address changes with its content, so it may be kept for ever."""
    site: Site = request.app.state.site
    asset = site.assets.find(version, name)
    if asset is None:
        raise HTTPException(404)
    headers = {"cache-control": f"public, max-age={YEAR_SECONDS}, immutable", "vary": "accept-encoding"}
    if asset.gzipped and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.gzipped, headers=headers | {"content-encoding": "gzip"}, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
