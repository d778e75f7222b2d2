"""Who is called beside the mails to administrators."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web


@pytest.fixture
async def hook() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A webhook's receiver and what it got."""
    got: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hook", take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    await runner.cleanup()
