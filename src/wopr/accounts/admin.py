"""Administrators of the platform: the first one has no password yet and comes in by a link that works once."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import addresses, links, people, sessions
from wopr.accounts.links import Purpose
from wopr.accounts.models import LinkToken, User
from wopr.accounts.sessions import Browser
from wopr.core.errors import Conflict
from wopr.core.ids import UserId
from wopr.core.settings import Settings


@dataclass(frozen=True)
class Administrator:
    """`changed` is False when the person was an administrator already."""

    user_id: UserId
    email: str
    changed: bool


async def ensure_administrator(session: AsyncSession, email: str, now: datetime | None = None) -> Administrator:
    """Make the address an administrator with a proven address, creating the user when absent.

    An account whose address was never proven may be somebody else's: its password, sessions and links are dropped.
    """
    user, created = await people.find_or_create(session, addresses.normalise(email), None)
    if user.platform_admin:
        return Administrator(UserId(user.id), user.email, changed=False)
    if not created and user.email_verified_at is None:
        user.password_hash = None
        await sessions.end_all(session, UserId(user.id))
        await session.execute(
            delete(LinkToken).where(LinkToken.user_id == user.id).execution_options(synchronize_session=False)
        )
    user.platform_admin = True
    people.mark_verified(user, now or datetime.now(UTC))
    await session.flush()
    return Administrator(UserId(user.id), user.email, changed=True)


async def one_time_link(session: AsyncSession, settings: Settings, email: str, now: datetime | None = None) -> str:
    """The address `{UI_URL}/welcome?token=…` that signs the administrator in once, within an hour.

    Creates the administrator when nobody has the address; Conflict when somebody has it who is none.
    """
    known = await people.find(session, addresses.normalise(email))
    if known is not None and not known.platform_admin:
        raise Conflict(
            f"{known.email} is not an administrator.",
            code="not_an_administrator",
            remedy=f"Make this person one with `wopr admin create {known.email}`.",
        )
    administrator = await ensure_administrator(session, email, now)
    token = await links.issue(session, administrator.user_id, Purpose.ONE_TIME, now or datetime.now(UTC))
    return links.address(settings, Purpose.ONE_TIME, token)


async def administrators(session: AsyncSession) -> list[str]:
    """The addresses of all administrators, the oldest first."""
    query = select(User.email).where(User.platform_admin).order_by(User.created_at, User.id)
    return list(await session.scalars(query))


async def first_administrator(session: AsyncSession) -> str | None:
    """The address of the oldest administrator."""
    return next(iter(await administrators(session)), None)


async def is_administrator(session: AsyncSession, email: str) -> bool:
    """Whether the user of a normalised address is one."""
    user = await people.find(session, email)
    return user is not None and user.platform_admin


async def enter(session: AsyncSession, token: str, browser: Browser, now: datetime) -> str:
    """Use a one-time link; the session's token."""
    redeemed = await links.redeem(session, token, Purpose.ONE_TIME, now)
    return await sessions.begin(session, UserId(redeemed.user.id), browser, now)
