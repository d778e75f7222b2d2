"""Signed-in browsers: begun, listed and ended. Nothing is cached: an ended one is refused on the next request."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Delete, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import BrowserSession, Membership
from wopr.accounts.secrets import fingerprint, new_secret
from wopr.core.errors import Forbidden, NotFound
from wopr.core.ids import SessionId, UserId, new_id

SESSION_DAYS = 30
SESSION_SECONDS = SESSION_DAYS * 24 * 3600
SESSIONS_PER_USER_MAX = 50
TOUCH_SECONDS = 60.0
USER_AGENT_CHARACTERS_MAX = 300


@dataclass(frozen=True)
class Browser:
    """Where a session was begun, for the person to recognise it."""

    ip: str
    user_agent: str


@dataclass(frozen=True)
class SessionView:
    """A session as its owner sees it; `current` marks the one that asks."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    ip: str | None
    user_agent: str | None
    current: bool


async def begin(session: AsyncSession, user_id: UserId, browser: Browser, now: datetime) -> str:
    """Sign a browser in to the user's oldest tenant and return the token for its cookie.

    Sessions beyond SESSIONS_PER_USER_MAX end, the longest unused first.
    """
    tenant_id = await session.scalar(
        select(Membership.tenant_id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.created_at, Membership.tenant_id)
        .limit(1)
    )
    if tenant_id is None:
        raise Forbidden("You are a member of no account.", remedy="Ask an owner to invite you.")
    token = new_secret()
    session.add(
        BrowserSession(
            id=new_id(),
            user_id=user_id,
            tenant_id=tenant_id,
            token_hash=fingerprint(token),
            created_at=now,
            last_used_at=now,
            expires_at=now + timedelta(seconds=SESSION_SECONDS),
            ip=browser.ip,
            user_agent=browser.user_agent[:USER_AGENT_CHARACTERS_MAX],
        )
    )
    await session.flush()
    surplus = (
        select(BrowserSession.id)
        .where(BrowserSession.user_id == user_id)
        .order_by(BrowserSession.last_used_at.desc(), BrowserSession.id.desc())
        .offset(SESSIONS_PER_USER_MAX)
    )
    await session.execute(_delete().where(BrowserSession.id.in_(surplus)))
    return token


async def list_sessions(
    session: AsyncSession, user_id: UserId, current: SessionId | None, now: datetime
) -> list[SessionView]:
    """The living sessions of a user, the most recently used first."""
    rows = await session.scalars(
        select(BrowserSession)
        .where(BrowserSession.user_id == user_id, BrowserSession.expires_at > now)
        .order_by(BrowserSession.last_used_at.desc(), BrowserSession.id.desc())
    )
    return [
        SessionView(row.id, row.created_at, row.last_used_at, row.ip, row.user_agent, row.id == current) for row in rows
    ]


async def end(session: AsyncSession, user_id: UserId, session_id: UUID) -> None:
    """End one session of the user; NotFound when it is not theirs or ended already."""
    ended = await session.scalar(
        _delete().where(BrowserSession.id == session_id, BrowserSession.user_id == user_id).returning(BrowserSession.id)
    )
    if ended is None:
        raise NotFound("There is no such session.", remedy="It may have ended already; list the sessions again.")


async def end_by_token(session: AsyncSession, token: str) -> None:
    """End the session of a cookie's token, if it still lives."""
    await session.execute(_delete().where(BrowserSession.token_hash == fingerprint(token)))


async def end_all(session: AsyncSession, user_id: UserId, keep: SessionId | None = None) -> None:
    """End every session of the user, but for `keep`."""
    statement = _delete().where(BrowserSession.user_id == user_id)
    await session.execute(statement if keep is None else statement.where(BrowserSession.id != keep))


async def touch(session: AsyncSession, session_id: SessionId, now: datetime) -> None:
    """Record that the session is in use, at most once in TOUCH_SECONDS."""
    await session.execute(
        update(BrowserSession)
        .where(
            BrowserSession.id == session_id,
            BrowserSession.last_used_at <= now - timedelta(seconds=TOUCH_SECONDS),
        )
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )


def _delete() -> Delete:
    return delete(BrowserSession).execution_options(synchronize_session=False)
