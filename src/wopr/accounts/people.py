"""Users and the tenants that are made for them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import Membership, Tenant, User
from wopr.accounts.principal import Role
from wopr.core.ids import UserId, new_id


async def find(session: AsyncSession, email: str) -> User | None:
    """The user of a normalised address."""
    found: User | None = await session.scalar(select(User).where(User.email == email))
    return found


async def lock(session: AsyncSession, user_id: UUID) -> User | None:
    """The user, locked until the end of the transaction, as it is after waiting."""
    statement = select(User).where(User.id == user_id).with_for_update().execution_options(populate_existing=True)
    found: User | None = await session.scalar(statement)
    return found


async def find_or_create(session: AsyncSession, email: str, name: str | None) -> tuple[User, bool]:
    """The user of a normalised address, locked; made with a tenant of its own when new, which the flag tells."""
    user_id = new_id()
    inserted = await session.scalar(
        insert(User)
        .values(id=user_id, email=email, name=name)
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User.id)
    )
    if inserted is not None:
        tenant = Tenant(id=new_id(), name=name or email.partition("@")[0])
        session.add(tenant)
        await session.flush()
        session.add(Membership(tenant_id=tenant.id, user_id=user_id, role=Role.OWNER.value))
        await session.flush()
    user = (
        await session.scalars(
            select(User).where(User.email == email).with_for_update().execution_options(populate_existing=True)
        )
    ).one()
    return user, inserted is not None


async def rename(session: AsyncSession, user_id: UserId, name: str) -> None:
    """Change how the person is called."""
    await session.execute(
        update(User).where(User.id == user_id).values(name=name).execution_options(synchronize_session=False)
    )


def mark_verified(user: User, now: datetime) -> None:
    """The address is theirs; the first proof keeps its date."""
    user.email_verified_at = user.email_verified_at or now
