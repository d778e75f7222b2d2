"""From the card to the bot's credit without a hand: webhook over HTTP, inbox, loops, ledger, stages."""

import asyncio
from datetime import timedelta
from uuid import uuid4

from fastapi import FastAPI
from sqlalchemy import text
from tests.billing.conftest import USD, WEBHOOK_SECRET, Customer, money_of, serving
from tests.billing.test_stripe import Shop

from wopr.billing import api
from wopr.billing.entitlement import entitlement
from wopr.billing.grants import grant_credit
from wopr.billing.loops import loops
from wopr.billing.prices import load_prices
from wopr.billing.usage import BotRuntime, charge_runtime
from wopr.core.ids import BotId
from wopr.core.loops import LoopRunner
from wopr.core.platform import Platform
from wopr.emulators.stripe import StripeSettings, build_stripe

PATIENCE_SECONDS = 120


async def test_a_paid_card_lifts_a_suspension_by_itself(platform: Platform, customer: Customer) -> None:
    await _suspend(platform, customer)
    receiver = FastAPI()
    receiver.state.platform = platform
    receiver.include_router(api.router)
    async with serving(receiver) as address:
        told = StripeSettings(webhook_url=f"{address}/api/billing/webhook", webhook_secret=WEBHOOK_SECRET)
        async with serving(build_stripe(told)) as company:
            settings = platform.settings.model_copy(update={"stripe_api_base": company})
            running = Platform(settings, platform.db, platform.clock, platform.http, platform.notifier)
            runner = LoopRunner(platform.db, platform.notifier, loops(running))
            await platform.notifier.start()
            await runner.start()
            try:
                await Shop(running, customer).buy("subscription")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not await _is_back(platform, customer):  # noqa: ASYNC110  # looks at the database
                        await asyncio.sleep(0.05)
            finally:
                await runner.stop()
                await platform.notifier.stop()
    money = await money_of(platform.db, customer.id)
    assert 0 <= money.available - 4 * USD < 20  # a part of a nano-dollar is dropped each day
    assert money.debt == 0
    async with platform.db.begin() as session:
        errors = await session.execute(text("SELECT name, last_error FROM loop_leases WHERE last_error IS NOT NULL"))
        assert errors.all() == []


async def _suspend(platform: Platform, customer: Customer) -> None:
    """A customer whose bot ran for $2 on a dollar of credit."""
    async with platform.db.begin() as session:
        await grant_credit(session, customer.id, USD, "once")
    stretch = BotRuntime(
        customer.id, BotId(uuid4()), "standard", platform.clock.now() - timedelta(days=20), platform.clock.now()
    )
    async with platform.db.begin() as session:
        await charge_runtime(session, stretch, load_prices())
        await session.execute(
            text(
                "INSERT INTO entitlements (tenant_id, state, since, warn_since) VALUES (:id, 'suspended', :now, :now)"
            ),
            {"id": customer.id, "now": platform.clock.now()},
        )


async def _is_back(platform: Platform, customer: Customer) -> bool:
    async with platform.db.begin() as session:
        state = await entitlement(session, customer.id, platform.clock.now())
        stored = await session.scalar(text("SELECT state FROM entitlements WHERE tenant_id = :id"), {"id": customer.id})
    return state.state == stored == "active"
