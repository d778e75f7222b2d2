"""From a cookie's token or a key to the principal, looked up in the database at each request."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import keys, sessions
from wopr.accounts.models import ApiKey, BrowserSession, Membership, Tenant, User
from wopr.accounts.principal import Principal, Role, Scope, scopes_of_key, scopes_of_role
from wopr.accounts.secrets import fingerprint
from wopr.core.errors import Forbidden, NotFound, Unauthenticated
from wopr.core.ids import BotId, KeyId, SessionId, TenantId, UserId

KEY_START = "wopr_"
KEY_CHARACTERS_MAX = 128


@dataclass(frozen=True)
class Identity:
    """The words of `GET /api/auth/session` about the caller: what the principal leaves out."""

    user_name: str | None
    tenant_name: str
    suspended: bool
    session_created_at: datetime | None
    session_expires_at: datetime | None


async def by_session(session: AsyncSession, token: str, now: datetime) -> Principal | None:
    """The person behind a cookie's token; None when the session ended. Notes the use, at most once a minute."""
    query = (
        select(BrowserSession, User, Membership.role)
        .join(User, User.id == BrowserSession.user_id)
        .join(
            Membership,
            (Membership.user_id == BrowserSession.user_id) & (Membership.tenant_id == BrowserSession.tenant_id),
        )
        .where(BrowserSession.token_hash == fingerprint(token), BrowserSession.expires_at > now)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    living, user, role_name = row
    session_id, role = SessionId(living.id), Role(role_name)
    if living.last_used_at <= now - timedelta(seconds=sessions.TOUCH_SECONDS):
        await sessions.touch(session, session_id, now)
    return Principal(
        tenant_id=TenantId(living.tenant_id),
        user_id=UserId(user.id),
        email=user.email,
        role=role,
        scopes=scopes_of_role(role),
        platform_admin=user.platform_admin,
        email_verified=user.email_verified_at is not None,
        session_id=session_id,
        key_id=None,
        bot_id=None,
    )


async def by_key(session: AsyncSession, secret: str, now: datetime) -> Principal:
    """Whom a key speaks for; Unauthenticated when it is unknown, revoked or expired, Forbidden when suspended."""
    known = await keys.find_by_hash(session, fingerprint(secret)) if len(secret) <= KEY_CHARACTERS_MAX else None
    if known is None or known.revoked or (known.expires_at is not None and known.expires_at <= now):
        raise Unauthenticated(
            "This key is unknown, revoked or expired.", code="bad_key", remedy="Create another one on the keys page."
        )
    if known.tenant_suspended:
        raise Forbidden(
            "This account is suspended, so its keys are refused.",
            code="suspended",
            remedy="Sign in to the web pages to see why, and how to bring the account back.",
        )
    behind = (await session.execute(_behind(known.key_id))).one_or_none()
    if behind is None:
        raise Unauthenticated("Nobody is left in the account of this key.", code="bad_key", remedy="Write to support.")
    last_used_at, user, role_name = behind
    if last_used_at is None or last_used_at <= now - timedelta(seconds=sessions.TOUCH_SECONDS):
        await keys.touch(session, {known.key_id: now})
    of_bot = known.bot_id is not None
    return Principal(
        tenant_id=known.tenant_id,
        user_id=None if of_bot else UserId(user.id),
        email=user.email,
        role=Role(role_name),
        scopes=scopes_of_key(known.scope),
        platform_admin=user.platform_admin and known.scope is Scope.ADMIN and not of_bot,
        email_verified=known.email_verified,
        session_id=None,
        key_id=known.key_id,
        bot_id=None if known.bot_id is None else BotId(known.bot_id),
    )


async def describe(session: AsyncSession, principal: Principal) -> Identity:
    """The names and dates that pages show about the caller."""
    query = (
        select(User.name, Tenant.name, Tenant.suspended_at, BrowserSession.created_at, BrowserSession.expires_at)
        .select_from(Tenant)
        .join(User, User.id == principal.user_id)
        .outerjoin(BrowserSession, BrowserSession.id == principal.session_id)
        .where(Tenant.id == principal.tenant_id)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise NotFound("This account is gone.", remedy="Sign in again.")
    name, tenant_name, suspended_at, created_at, expires_at = row
    return Identity(name, tenant_name, suspended_at is not None, created_at, expires_at)


def _behind(key_id: KeyId) -> Select[datetime | None, User, str]:
    # The person who made the key while still a member, else the first owner.
    return (
        select(ApiKey.last_used_at, User, Membership.role)
        .join(Membership, Membership.tenant_id == ApiKey.tenant_id)
        .join(User, User.id == Membership.user_id)
        .where(ApiKey.id == key_id)
        .order_by(
            func.coalesce(User.id == ApiKey.user_id, False).desc(),
            (Membership.role == Role.OWNER.value).desc(),
            Membership.created_at,
            User.id,
        )
        .limit(1)
    )
