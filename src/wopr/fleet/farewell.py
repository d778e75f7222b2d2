"""Deletes the bots of customers whose last date has passed: the only deletion that nobody asked for by hand.

Billing plans the stages and announces the date in several mails, the last one a reminder; here the stage `deleted` is
carried out. Credit that came meanwhile is looked at in the same transaction, and stops it.
"""

from collections.abc import Mapping

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing.entitlement import at_the_end, entitlement
from wopr.billing.prices import load_prices
from wopr.core.ids import TenantId
from wopr.core.platform import Platform
from wopr.fleet.bots import want_gone
from wopr.fleet.models import Bot
from wopr.fleet.plan import Desired

log = structlog.get_logger(__name__)


async def delete_unpaid(platform: Platform) -> Mapping[str, int]:
    """Want every bot gone whose customer is at the stage `deleted`; a transaction for each customer."""
    async with platform.db.begin() as session:
        ended = await at_the_end(session)
        owners = await session.scalars(
            select(Bot.tenant_id).distinct().where(Bot.tenant_id.in_(ended), Bot.desired != Desired.DELETED.value)
        )
        tenants = [TenantId(owner) for owner in owners]
    deleted = 0
    for tenant_id in tenants:
        async with platform.db.begin() as session:
            deleted += await _delete_bots(session, platform, tenant_id)
    return {"customers": len(tenants), "deleted": deleted}


async def _delete_bots(session: AsyncSession, platform: Platform, tenant_id: TenantId) -> int:
    now = platform.clock.now()
    stages = load_prices(platform.settings.wopr_prices).stages
    if (await entitlement(session, tenant_id, now, stages)).state != "deleted":
        return 0
    bots = await session.scalars(
        select(Bot).where(Bot.tenant_id == tenant_id, Bot.desired != Desired.DELETED.value).with_for_update()
    )
    count = 0
    for bot in bots.all():
        await want_gone(session, bot, now)
        log.warning("bot.deleted_for_want_of_credit", bot_id=str(bot.id), tenant_id=str(tenant_id))
        count += 1
    return count
