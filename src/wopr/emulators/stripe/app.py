"""The Stripe stand-in as an application: API, hosted pages, a look inside, and the tasks that run beside them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from wopr.emulators.documents import Documents
from wopr.emulators.pages import mount_static
from wopr.emulators.stripe import api, control, hosted
from wopr.emulators.stripe.catalog import seed
from wopr.emulators.stripe.delivery import Courier
from wopr.emulators.stripe.errors import StripeError
from wopr.emulators.stripe.events import configure_endpoint
from wopr.emulators.stripe.settings import StripeSettings
from wopr.emulators.stripe.timeline import advance
from wopr.emulators.stripe.world import World, new_id

_ADDRESS = "last_address"


def build_stripe(settings: StripeSettings | None = None) -> FastAPI:
    """The application; its state is in `settings.state` and survives a kill of the process at any moment."""
    chosen = settings or StripeSettings()
    documents = Documents(chosen.state)
    world = World(documents, chosen, base_url=(chosen.public_url or documents.note(_ADDRESS)).rstrip("/"))
    courier = Courier(world)
    with world.documents.transaction():
        seed(world)
        configure_endpoint(world)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(courier.run()), asyncio.create_task(_tick(world, courier))]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        world.documents.close()

    app = FastAPI(title="Stripe stand-in", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.world = world
    _add_edges(app, world)
    app.include_router(api.router(world, courier.wake))
    app.include_router(control.router(world, courier.wake))
    app.include_router(hosted.router(world, courier.wake))
    mount_static(app)
    return app


def _add_edges(app: FastAPI, world: World) -> None:
    @app.middleware("http")
    async def learn_address(request: Request, call_next):  # type: ignore[no-untyped-def]
        """Links lead back to where the stand-in was reached, unless its public address was given."""
        address = str(request.base_url).rstrip("/")
        if world.settings.public_url is None and world.base_url != address:
            world.base_url = address
            world.documents.set_note(_ADDRESS, address)
        return await call_next(request)

    @app.exception_handler(StripeError)
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, StripeError)
        return api.refused(error, new_id("req"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        return api.refused(api.unrecognized(request), new_id("req"))

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("/_emulator/")

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok"}


async def _tick(world: World, courier: Courier) -> None:
    """What falls due as real time passes, for a stand-in that runs for weeks."""
    while True:
        with world.documents.transaction():
            steps = advance(world, None, world.now())
        if steps:
            courier.wake()
        await asyncio.sleep(world.settings.tick_seconds)
