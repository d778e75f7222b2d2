"""A platform on a fresh database, and services of a node whose health a test decides."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings


@dataclass
class FakeService:
    """One service that listens: what it answers, and how often it was asked."""

    port: int = 0
    status: int = 200
    asked: int = 0
    models: tuple[str, ...] = ("handbook",)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        voices = web.get("/v1/audio/voices", self._voices)
        app.add_routes([web.get("/health", self._health), web.get("/v1/models", self._models), voices])
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _health(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"status": "ok"}, status=self.status)

    async def _voices(self, _request: web.Request) -> web.Response:
        return web.json_response({"voices": [{"id": "rms", "model": "flite"}, "lessac"]})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """A service of a node on a free port."""
    started = FakeService()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def platform(db: Database, clock: ManualClock) -> AsyncIterator[Platform]:
    settings = Settings(database_url=SecretStr(db.url))
    async with httpx.AsyncClient() as http:
        yield Platform(settings, db, clock, http, Notifier(db))
