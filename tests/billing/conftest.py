"""Customers, a platform on a manual clock, and Stripe's stand-in on a free port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from sqlalchemy import text

from wopr.accounts.principal import ALL_SCOPES, Principal, Role
from wopr.billing import ledger
from wopr.billing.ledger import Balance
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.ids import TenantId, UserId
from wopr.core.money import NANOS_PER_USD
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.emulators.stripe import StripeSettings, build_stripe

USD = NANOS_PER_USD
WEBHOOK_SECRET = "whsec_dGVzdA"


@dataclass(frozen=True)
class Customer:
    """A tenant with an owner."""

    id: TenantId
    user_id: UserId
    email: str

    @property
    def principal(self) -> Principal:
        return Principal(
            tenant_id=self.id,
            user_id=self.user_id,
            email=self.email,
            role=Role.OWNER,
            scopes=ALL_SCOPES,
            platform_admin=False,
            email_verified=True,
            session_id=None,
            key_id=None,
            bot_id=None,
        )


async def make_customer(db: Database) -> Customer:
    customer = Customer(TenantId(uuid4()), UserId(uuid4()), f"{uuid4().hex[:8]}@example.com")
    async with db.begin() as session:
        await session.execute(text("INSERT INTO tenants (id, name) VALUES (:id, 'Ada')"), {"id": customer.id})
        await session.execute(
            text("INSERT INTO users (id, email) VALUES (:id, :email)"),
            {"id": customer.user_id, "email": customer.email},
        )
        await session.execute(
            text("INSERT INTO memberships (tenant_id, user_id, role) VALUES (:tenant, :user, 'owner')"),
            {"tenant": customer.id, "user": customer.user_id},
        )
    return customer


async def money_of(db: Database, tenant_id: UUID) -> Balance:
    async with db.begin() as session:
        return await ledger.balance(session, TenantId(tenant_id))


@pytest.fixture
async def customer(db: Database) -> Customer:
    return await make_customer(db)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An application on a free port of loopback; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn tells it in no other way
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def stripe_url() -> AsyncIterator[str]:
    """The stand-in, in memory."""
    async with serving(build_stripe(StripeSettings())) as url:
        yield url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def platform(db: Database, clock: ManualClock, stripe_url: str) -> AsyncIterator[Platform]:
    settings = Settings(
        platform_secret="of the tests",
        stripe_secret_key="sk_test_wopr",
        stripe_webhook_secret=WEBHOOK_SECRET,
        stripe_default_price_id="price_wopr_monthly",
        stripe_api_base=stripe_url,
        ui_url="http://ui.example",
    )
    async with httpx.AsyncClient(timeout=60) as http:
        yield Platform(settings, db, clock, http, Notifier(db))
