"""Customers as administrators and other slices see them: listed, looked up, suspended, reinstated."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, Uuid, bindparam, cast, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import Membership, Tenant, User
from wopr.accounts.principal import Role
from wopr.core.errors import BadRequest, NotFound
from wopr.core.ids import TenantId
from wopr.core.notify import notify

TENANTS_CHANNEL = "wopr_tenants"
PAGE_MAX = 100


@dataclass(frozen=True)
class TenantView:
    """A customer with the address of the first owner."""

    id: TenantId
    name: str
    owner_email: str
    created_at: datetime
    suspended_at: datetime | None


@dataclass(frozen=True)
class TenantPage:
    """Newest first; `next_cursor` is None on the last page."""

    tenants: list[TenantView]
    next_cursor: str | None


async def list_tenants(
    session: AsyncSession, query: str | None = None, cursor: str | None = None, limit: int = 50
) -> TenantPage:
    """Tenants whose name, owner's address or id contains `query`, at most `limit` (1 to 100) a page."""
    size = max(1, min(limit, PAGE_MAX))
    statement = _with_owner().order_by(Tenant.id.desc()).limit(size + 1)
    if query and query.strip():
        wanted = query.strip()
        statement = statement.where(
            or_(
                Tenant.name.icontains(wanted, autoescape=True),
                User.email.icontains(wanted, autoescape=True),
                cast(Tenant.id, Text) == wanted.lower(),
            )
        )
    if cursor:
        statement = statement.where(Tenant.id < _parse_cursor(cursor))
    found = [_view(tenant, email) for tenant, email in (await session.execute(statement))]
    page = found[:size]
    return TenantPage(page, str(page[-1].id) if len(found) > size else None)


async def get_tenant(session: AsyncSession, tenant_id: UUID) -> TenantView:
    """One tenant; NotFound when there is none."""
    row = (await session.execute(_with_owner().where(Tenant.id == tenant_id))).one_or_none()
    if row is None:
        raise NotFound("There is no such customer.", remedy="Search the list of customers.")
    return _view(*row)


async def tenant_names(session: AsyncSession, tenant_ids: Collection[UUID]) -> dict[UUID, str]:
    """The names of these tenants; one that is gone is left out."""
    found = await session.execute(select(Tenant.id, Tenant.name).where(Tenant.id.in_(tenant_ids)))
    return {row.id: row.name for row in found}


async def suspensions(session: AsyncSession, tenant_ids: Collection[UUID]) -> dict[UUID, bool]:
    """Whether the operator suspended each of these tenants, in one statement; one that is gone is left out."""
    wanted = Tenant.id == func.any(bindparam("ids", list(tenant_ids), ARRAY(Uuid)))
    found = await session.execute(select(Tenant.id, Tenant.suspended_at.is_not(None)).where(wanted))
    return {row[0]: row[1] for row in found}


async def owner_email(session: AsyncSession, tenant_id: UUID) -> str:
    """Where mails to this customer go; NotFound when there is no such tenant."""
    return (await get_tenant(session, tenant_id)).owner_email


async def set_suspended(session: AsyncSession, tenant_id: UUID, suspended: bool) -> bool:
    """The operator suspends or reinstates a tenant; told to every process at the commit. True: it changed something.

    Want of credit is no suspension: billing plans its stages from the balance, and no payment lifts what was set here.
    """
    was = Tenant.suspended_at.is_(None) if suspended else Tenant.suspended_at.is_not(None)
    changed = await session.scalar(
        update(Tenant)
        .where(Tenant.id == tenant_id, was)
        .values(suspended_at=func.now() if suspended else None)
        .returning(Tenant.id)
        .execution_options(synchronize_session=False)
    )
    if changed is None:
        await get_tenant(session, tenant_id)
        return False
    await notify(session, TENANTS_CHANNEL, str(tenant_id))
    return True


def _with_owner() -> Select[Tenant, str]:
    first_owner = (
        select(Membership.user_id)
        .where(Membership.tenant_id == Tenant.id, Membership.role == Role.OWNER.value)
        .order_by(Membership.created_at, Membership.user_id)
        .limit(1)
        .correlate(Tenant)
        .scalar_subquery()
    )
    return select(Tenant, User.email).join(User, User.id == first_owner)


def _parse_cursor(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError as error:
        raise BadRequest("The cursor can't be read.", remedy="Use `next_cursor` of the page before.") from error


def _view(tenant: Tenant, email: str) -> TenantView:
    return TenantView(TenantId(tenant.id), tenant.name, email, tenant.created_at, tenant.suspended_at)
