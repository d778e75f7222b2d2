"""A platform on a fresh database, and services of a node whose health a test decides."""

import asyncio
import contextlib
import io
import json
import socket
import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

import wopr.inference
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference.life import Life
from wopr.inference.watchdog import Watchdog

SPOKEN = (Path(wopr.inference.__file__).parent / "spoken.wav").read_bytes()


@dataclass
class FakeService:
    """One service that listens: what it answers, and how often it was asked."""

    port: int = 0
    status: int = 200
    asked: int = 0
    checked: int = 0
    models: tuple[str, ...] = ("handbook",)
    vector: tuple[float, ...] = (0.5, 0.25, 0.125)
    check_status: int = 200
    nonsense: bool = False
    # While it is not set, requests other than /health wait: as a service does that hangs.
    works: asyncio.Event = field(default_factory=asyncio.Event)
    # While it is not set, not even /health is answered.
    breathes: asyncio.Event = field(default_factory=asyncio.Event)
    metrics: str | None = None
    ticking: bool = False  # its counter of work goes up at every look
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        self.works.set()
        self.breathes.set()
        app = web.Application()
        voices = web.get("/v1/audio/voices", self._voices)
        app.add_routes([web.get("/health", self._health), web.get("/v1/models", self._models), voices])
        app.add_routes([web.post("/v1/{tail:.*}", self._work), web.get("/metrics", self._metrics)])
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _health(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await self.breathes.wait()
        return web.json_response({"status": "ok"}, status=self.status)

    async def _voices(self, _request: web.Request) -> web.Response:
        return web.json_response({"voices": [{"id": "rms", "model": "flite"}, "lessac"]})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self.metrics is None:
            raise web.HTTPNotFound
        if self.ticking:
            self.checked += 1
        return web.Response(text=self.metrics.replace("COUNT", str(self.checked)))

    async def _work(self, request: web.Request) -> web.Response:
        await self.works.wait()
        self.checked += 1
        if self.check_status != 200 or self.nonsense:
            return web.Response(text="<html>", status=self.check_status)
        path = request.path
        if path.endswith("speech"):
            return web.Response(body=SPOKEN, content_type="audio/wav")
        if path.endswith("transcriptions"):
            form = await request.post()
            assert isinstance(form["file"], web.FileField)
            return web.json_response({"text": "Ready?" if form["file"].file.read() == SPOKEN else ""})
        asked = json.loads(await request.read())
        if path.endswith("embeddings"):
            return web.json_response({"data": [{"embedding": list(self.vector)}]})
        assert asked["max_tokens"] == 1
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": "1"}}]})


@contextlib.contextmanager
def dropping(port: int = 0) -> Iterator[int]:
    """A port of which nothing comes back: its queue is full, so that the kernel drops every further connection."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what served there has just ended
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port


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
async def platform(db: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Platform]:
    settings = Settings(database_url=SecretStr(db.url), wopr_home=tmp_path)
    async with httpx.AsyncClient() as http:
        yield Platform(settings, db, clock, http, Notifier(db))


@pytest.fixture
def life(platform: Platform) -> Life:
    return Life(platform.notifier, platform.clock.monotonic)


@pytest.fixture
async def watchdog(platform: Platform, life: Life) -> AsyncIterator[Watchdog]:
    """A watchdog whose passes wait until every look has ended."""
    started = Watchdog(platform, life, waits_seconds=60)
    yield started
    await started.close()


def long_recording(times: int) -> bytes:
    """The word of the checks, many times over."""
    with wave.open(io.BytesIO(SPOKEN)) as word:
        params, frames = word.getparams(), word.readframes(word.getnframes())
    made = io.BytesIO()
    with wave.open(made, "wb") as recording:
        recording.setparams(params)
        recording.writeframes(frames * times)
    return made.getvalue()
