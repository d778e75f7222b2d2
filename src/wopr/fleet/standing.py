"""Whether a customer may have running bots now: from the account and from the balance, each time anew."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.tenants import get_tenant
from wopr.billing.entitlement import ADD_CREDIT, Entitlement, entitlement
from wopr.billing.prices import load_prices
from wopr.core.errors import Forbidden, NotFound
from wopr.core.ids import TenantId
from wopr.core.settings import Settings
from wopr.fleet.plan import Standing

SUSPENDED = "The account is suspended by the operator. Write to support."


async def standing(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> Standing:
    """What the planner needs to know of a customer."""
    try:
        tenant = await get_tenant(session, tenant_id)
    except NotFound:
        return Standing(False, "The account no longer exists.")
    if tenant.suspended_at is not None:
        return Standing(False, SUSPENDED)
    if (await _entitlement(session, tenant_id, settings, now)).may_run:
        return Standing(True)
    return Standing(False, f"The credit is used up. {ADD_CREDIT}")


async def require_credit(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> None:
    """PaymentRequired unless the customer may begin something new; Forbidden for a suspended account."""
    tenant = await get_tenant(session, tenant_id)
    if tenant.suspended_at is not None:
        raise Forbidden("The account is suspended by the operator.", code="suspended", remedy="Write to support.")
    (await _entitlement(session, tenant_id, settings, now)).require()


async def _entitlement(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> Entitlement:
    return await entitlement(session, TenantId(tenant_id), now, load_prices(settings.wopr_prices).stages)
