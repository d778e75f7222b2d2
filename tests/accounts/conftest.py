"""A small application of the accounts' routes on a fresh database, and people who use it through HTTP."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import APIRouter, FastAPI
from sqlalchemy import select, text

from wopr.accounts import admin, keys, passwords
from wopr.accounts.api import router
from wopr.accounts.guard import PlatformAdmin, Reader, Service, TenantAdmin, Writer
from wopr.accounts.models import Mail
from wopr.accounts.principal import Scope
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.ids import TenantId, UserId, new_id
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.main import install_error_handlers

UI = "http://localhost:3000"
PASSWORD = "violet anchor tundra biscuit"
guarded = APIRouter()


@guarded.get("/guarded/reader")
async def reader(principal: Reader) -> str:
    return principal.email


@guarded.post("/guarded/writer")
async def writer(principal: Writer) -> str:
    return principal.email


@guarded.post("/guarded/tenant-admin")
async def tenant_admin(principal: TenantAdmin) -> str:
    return principal.email


@guarded.get("/guarded/platform-admin")
async def platform_admin(principal: PlatformAdmin) -> str:
    return principal.email


@guarded.get("/guarded/service")
async def service(_passed: Service) -> str:
    return "ok"


def application(platform: Platform) -> FastAPI:
    app = FastAPI()
    app.state.platform = platform
    install_error_handlers(app)
    app.include_router(router)
    app.include_router(guarded)
    return app


@dataclass
class World:
    """The application, and what a test needs around it."""

    platform: Platform
    clock: ManualClock
    stack: AsyncExitStack
    clients: int = field(default=0)

    def application(self, platform: Platform) -> FastAPI:
        """The application as another process would run it."""
        return application(platform)

    async def client(self, address: str | None = None, app: FastAPI | None = None) -> httpx.AsyncClient:
        """A browser of its own, at an address of its own unless one is given."""
        self.clients += 1
        address = address or f"198.51.100.{self.clients}"
        transport = httpx.ASGITransport(app or application(self.platform), client=(address, 50_000))
        return await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost:3100", headers={"origin": UI})
        )

    async def mails(self, to: str) -> list[Mail]:
        """What is in the outbox for an address, oldest first."""
        async with self.platform.db.begin() as session:
            return list(await session.scalars(select(Mail).where(Mail.to_address == to).order_by(Mail.id)))

    async def token(self, to: str) -> str:
        """The token of the link in the newest mail that has one."""
        found = [re.search(r"\?token=([\w-]+)", mail.text) for mail in await self.mails(to)]
        return [match for match in found if match][-1].group(1)

    async def sign_up(self, email: str, password: str = PASSWORD) -> httpx.AsyncClient:
        """A new person who has not proven the address."""
        client = await self.client()
        answer = await client.post("/api/auth/sign-up", json={"email": email, "password": password})
        assert answer.status_code == 202, answer.text
        return client

    async def person(self, email: str, password: str = PASSWORD) -> httpx.AsyncClient:
        """A new person, proven and signed in."""
        client = await self.sign_up(email, password)
        answer = await client.post("/api/auth/verify", json={"token": await self.token(email)})
        assert answer.status_code == 200, answer.text
        return client

    async def unproven(self, email: str) -> httpx.AsyncClient:
        """A person who is signed in without having proven the address."""
        client = await self.sign_up(email)
        answer = await client.post("/api/auth/sign-in", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return client

    async def administrator(self, email: str = "root@wopr.test") -> httpx.AsyncClient:
        """An administrator, signed in by a one-time link."""
        client = await self.client()
        async with self.platform.db.begin() as session:
            link = await admin.one_time_link(session, self.platform.settings, email, self.clock.now())
        answer = await client.post("/api/auth/one-time", json={"token": link.partition("token=")[2]})
        assert answer.status_code == 200, answer.text
        return client

    async def tenant_of(self, client: httpx.AsyncClient) -> TenantId:
        return TenantId(UUID((await client.get("/api/auth/session")).json()["tenant"]["id"]))

    async def with_key(self, owner: httpx.AsyncClient, scope: Scope, *, bot: bool = False) -> httpx.AsyncClient:
        """A program with a key of the owner's account."""
        who = (await owner.get("/api/auth/session")).json()
        async with self.platform.db.begin() as session:
            issued = await keys.issue(
                session,
                TenantId(UUID(who["tenant"]["id"])),
                name="test",
                scope=scope,
                user_id=None if bot else UserId(UUID(who["user"]["id"])),
                bot_id=new_id() if bot else None,
            )
        client = await self.client()
        del client.headers["origin"]
        client.headers["authorization"] = f"Bearer {issued.secret}"
        return client

    async def scalar(self, statement: str) -> object:
        async with self.platform.db.begin() as session:
            return await session.scalar(text(statement))


def settings_with(**changes: object) -> Settings:
    given: dict[str, object] = {
        "api_url": "http://localhost:3100",
        "ui_url": UI,
        "better_auth_secret": "one secret for the tests",
        "platform_secret": "between services, the one before",
        "resend_api_key": None,
        "smtp_url": None,
        **changes,
    }
    return Settings(**given)  # type: ignore[arg-type]


@pytest.fixture
async def world(db: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # The same algorithm with the least work: hundreds of sign-ups are about everything but the cost of guessing.
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", cheap)
    monkeypatch.setattr(passwords, "_DECOY", cheap.hash("no account has this password"))
    # Ahead of the database's own clock, so that what is due from now on is due here.
    clock = ManualClock(datetime.now(UTC) + timedelta(hours=1))
    async with AsyncExitStack() as stack, httpx.AsyncClient() as http:
        yield World(Platform(settings_with(), db, clock, http, Notifier(db)), clock, stack)
