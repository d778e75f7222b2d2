"""Whether a customer may have running bots now: from the account and from the balance, each time anew."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.tenants import get_tenant, suspensions
from wopr.billing.entitlement import ADD_CREDIT, Entitlement, entitlement, entitlements
from wopr.billing.prices import load_prices
from wopr.core.errors import Forbidden
from wopr.core.ids import TenantId
from wopr.core.settings import Settings
from wopr.fleet.plan import Standing

SUSPENDED = "The account is suspended by the operator. Write to support."


async def standing(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> Standing:
    """What the planner needs to know of a customer."""
    return (await standings(session, [tenant_id], settings, now))[tenant_id]


async def standings(
    session: AsyncSession, tenant_ids: Collection[UUID], settings: Settings, now: datetime
) -> dict[UUID, Standing]:
    """The same of many customers, in three statements however many they are."""
    suspended = await suspensions(session, tenant_ids)
    standing_well = [TenantId(tenant_id) for tenant_id, is_so in suspended.items() if not is_so]
    stages = load_prices(settings.wopr_prices).stages
    allowed = await entitlements(session, standing_well, now, stages)
    return {
        tenant_id: _standing(suspended.get(tenant_id), allowed.get(TenantId(tenant_id))) for tenant_id in tenant_ids
    }


async def require_credit(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> None:
    """PaymentRequired unless the customer may begin something new; Forbidden for a suspended account."""
    tenant = await get_tenant(session, tenant_id)
    if tenant.suspended_at is not None:
        raise Forbidden("The account is suspended by the operator.", code="suspended", remedy="Write to support.")
    (await _entitlement(session, tenant_id, settings, now)).require()


def _standing(suspended: bool | None, allowed: Entitlement | None) -> Standing:
    if suspended is None:
        return Standing(False, "The account no longer exists.")
    if suspended or allowed is None:
        return Standing(False, SUSPENDED)
    return Standing(True) if allowed.may_run else Standing(False, f"The credit is used up. {ADD_CREDIT}")


async def _entitlement(session: AsyncSession, tenant_id: UUID, settings: Settings, now: datetime) -> Entitlement:
    return await entitlement(session, TenantId(tenant_id), now, load_prices(settings.wopr_prices).stages)
