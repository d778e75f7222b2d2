"""A fleet on a fresh database and folder: real bots, customers with keys and credit, a gateway that answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import CursorResult, text
from structlog.testing import capture_logs

from wopr.accounts import keys
from wopr.accounts.models import Membership, Tenant, User
from wopr.accounts.principal import Scope
from wopr.billing.grants import grant_credit
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import TenantId, UserId, new_id
from wopr.core.money import from_usd
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.fleet.api import router
from wopr.fleet.build import SharedFleet, build_fleet
from wopr.fleet.reconcile import Reconciler
from wopr.fleet.runtimes.process import stop_all
from wopr.fleet.runtimes.record import RunRecord, read_record, strays, write_record
from wopr.main import find_choices, install_error_handlers

WAIT_SECONDS = 60.0
BOTS_MAX = 3


@dataclass
class Gateway:
    """Speaks the OpenAI protocol on loopback and repeats what it was told."""

    url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)
    personas: list[str] = field(default_factory=list)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/embeddings", self.embeddings)
        return app

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.personas.append(body["messages"][0]["content"])
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": str(new_id())})
        await response.prepare(request)
        for word in f"You said: {body['messages'][-1]['content']}".split(" "):
            chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]})
            await response.write(f"data: {chunk}\n\n".encode())
        end = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
        await response.write(f"data: {end}\n\ndata: [DONE]\n\n".encode())
        return response

    async def embeddings(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"error": {"message": "none here", "type": "x", "param": None, "code": None}}, status=404
        )


@dataclass
class Customer:
    """A tenant with a client that shows its write key."""

    tenant_id: TenantId
    key: str
    http: httpx.AsyncClient

    async def create(self, name: str = "Ada", **more: object) -> dict[str, Any]:
        answer = await self.http.post("/fleet/bots", json={"name": name, **more})
        assert answer.status_code == 201, answer.text
        bot: dict[str, Any] = answer.json()
        return bot

    async def bot(self, bot_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/fleet/bots/{bot_id}")
        assert answer.status_code == 200, answer.text
        bot: dict[str, Any] = answer.json()
        return bot


@dataclass
class World:
    """Everything a test of the fleet needs."""

    platform: Platform
    gateway: Gateway
    home: Path
    stack: AsyncExitStack

    def reconciler(self) -> Reconciler:
        """What one API process has; a second one is another process that adopts."""
        fleet = build_fleet(self.platform)
        made = Reconciler(self.platform, fleet.runtime, fleet.http)
        self.stack.push_async_callback(fleet.close)
        self.stack.push_async_callback(made.close)
        return made

    async def work(self) -> Reconciler:
        """A reconciler that works in the background until the test ends."""
        made = self.reconciler()
        await self.platform.notifier.start()
        await self.platform.notifier.connected.wait()

        async def forever() -> None:
            while True:
                await made.run_pass()

        task = asyncio.create_task(forever())

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self.stack.push_async_callback(end)
        return made

    async def customer(self, usd: str | None = "5", *, verified: bool = True, scope: Scope = Scope.WRITE) -> Customer:
        tenant_id, user_id = TenantId(new_id()), UserId(new_id())
        now = self.platform.clock.now()
        async with self.platform.db.begin() as session:
            session.add(Tenant(id=tenant_id, name="Someone"))
            session.add(User(id=user_id, email=f"{user_id}@example.org", email_verified_at=now if verified else None))
            await session.flush()
            session.add(Membership(tenant_id=tenant_id, user_id=user_id, role="owner"))
            key = await keys.issue(session, tenant_id, name="test", scope=scope, user_id=user_id)
            if usd is not None:
                await grant_credit(session, tenant_id, from_usd(usd), "test")
        transport = httpx.ASGITransport(self.application())
        headers = {"authorization": f"Bearer {key.secret}"}
        http = httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers, timeout=30)
        return Customer(tenant_id, key.secret, await self.stack.enter_async_context(http))

    def application(self) -> FastAPI:
        app = FastAPI()
        app.state.platform = self.platform
        app.state.fleet = SharedFleet(self.platform, find_choices)
        self.stack.push_async_callback(app.state.fleet.close)
        install_error_handlers(app)
        app.include_router(router)
        return app

    async def serve(self) -> str:
        """The routes over real HTTP, for what streams and for the command line; their address."""
        config = uvicorn.Config(self.application(), port=0, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())

        async def end() -> None:
            server.should_exit = True
            await task

        self.stack.push_async_callback(end)
        async with asyncio.timeout(WAIT_SECONDS):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def sql(self, statement: str, **values: object) -> Any:
        async with self.platform.db.begin() as session:
            result = await session.execute(text(statement), values)
            return result.scalar() if isinstance(result, CursorResult) and result.returns_rows else None

    def record(self, bot_id: str) -> RunRecord:
        record = read_record(self.home / "bots" / str(UUID(bot_id)))
        assert record is not None
        return record

    def lead(self, bot_id: str, port: int) -> None:
        """Requests to the bot go to this port from now on."""
        write_record(self.home / "bots" / str(UUID(bot_id)), replace(self.record(bot_id), port=port))

    def processes(self) -> list[int]:
        """Every bot process that lives under the folder, recorded or not."""
        return [pid for pid, folder in strays() if self.home in folder.parents]


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Waits until it is so."""

    async def wait(what: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await what():  # noqa: ASYNC110 - what is awaited is in the database
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
async def world(db: Database, tmp_path: Path) -> AsyncIterator[World]:
    gateway = Gateway()
    async with AsyncExitStack() as stack:
        stack.enter_context(capture_logs())
        runner = web.AppRunner(gateway.application())
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        # The bots are gone by then. What one of them had just begun is taken first: aiohttp closes what it knows.
        stack.push_async_callback(asyncio.sleep, 0.05)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        settings = Settings(
            wopr_home=tmp_path,
            platform_secret=SecretStr("of the tests"),
            api_internal_url=gateway.url,
            bots_max=BOTS_MAX,
        )
        http = await stack.enter_async_context(httpx.AsyncClient())
        platform = Platform(settings, db, SystemClock(), http, Notifier(db))
        stack.push_async_callback(platform.notifier.stop)
        stack.callback(stop_all, tmp_path)
        made = World(platform, gateway, tmp_path, stack)
        yield made
    assert made.processes() == []
